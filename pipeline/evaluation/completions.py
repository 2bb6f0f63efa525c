"""Completions of the held-out prompts, sampled and greedy, and their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Prompt
from pipeline.rollout.sampler import Sampled, Sampler
from pipeline.runtime.config import Count, Positive
from pipeline.runtime.progress import bar
from pipeline.tasks import Judged, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationParams:
    """What is measured, on how much."""

    prompts: Positive
    """Held-out prompts."""
    batch_size: Positive
    """Prompts completed (sampled and greedily, side by side), and sequences compared, at once."""
    max_new_tokens: Positive
    """Tokens after which a completion is cut."""
    precision: Precision
    """Of the sampler, and of both models' bodies in the comparison."""
    recorded_prompts: Count
    """Prompts, the first ones, whose completions are recorded token by token for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """What a model wrote for the held-out prompts."""

    sampled: list[Sampled]  # temperature 1
    greedy: list[Sampled]

    @property
    def eos_share(self) -> float:
        """How many of the sampled end with eos."""
        return sum(one.finished for one in self.sampled) / len(self.sampled)

    @property
    def tokens(self) -> int:
        """Tokens written in all."""
        return sum(len(one.token_ids) for one in [*self.sampled, *self.greedy])


def complete(prompts: Sequence[Prompt], sampler: Sampler, p: EvaluationParams, *, title: str) -> Completions:
    """Sampled and greedy completions, in the order of the prompts."""
    sampled, greedy = (_sampling(p, temperature) for temperature in (1.0, 0.0))
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index].prompt_ids), index))
    found: dict[int, tuple[Sampled, Sampled]] = {}
    with bar(title, 2 * p.max_new_tokens * len(prompts)) as meter:
        for start in range(0, len(order), p.batch_size):
            chunk = order[start : start + p.batch_size]
            ids = [f"evaluate/{prompts[index].prompt_id}" for index in chunk]
            ways = [sampled] * len(chunk) + [greedy] * len(chunk)
            made = sampler.sample([prompts[index].prompt_ids for index in chunk] * 2, ids * 2, ways)
            found.update(zip(chunk, zip(made[: len(chunk)], made[len(chunk) :], strict=True), strict=True))
            meter.update(sum(len(one.token_ids) for one in made))
        meter.total = meter.n
    pairs = [found[index] for index in range(len(prompts))]
    return Completions(sampled=[one for one, _ in pairs], greedy=[one for _, one in pairs])


def _sampling(p: EvaluationParams, temperature: float) -> Sampling:
    return Sampling(
        max_new_tokens=p.max_new_tokens,
        temperature=temperature,
        top_p=1.0,
        record_threshold=1.0,
        record_max=0,
        record_tail_samples=0,
    )


def judge(
    task: Task, prompts: Sequence[Prompt], completions: Sequence[Sampled], decode: Callable[[list[int]], str]
) -> list[Judged]:
    """Each completion and what it is worth, in the order of the prompts."""
    texts = [decode(one.token_ids) for one in completions]
    return [
        Judged(text=text, references=prompt.references, score=task.score(text, prompt.references))
        for prompt, text in zip(prompts, texts, strict=True)
    ]
