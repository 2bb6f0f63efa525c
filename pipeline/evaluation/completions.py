"""Sample completions of the held-out prompts, at temperature 1 and greedily, and score them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Prompt
from pipeline.evaluation.standard_errors import error_of_mean, jackknife_errors
from pipeline.metrics.rewards import Weights, completion_rewards
from pipeline.rollout.collect import Decode
from pipeline.rollout.sampler import Sampled, Sampler
from pipeline.runtime.config import Count, Positive
from pipeline.runtime.progress import bar
from pipeline.tasks import Judged, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationParams:
    """The size and the precision of an evaluation."""

    prompts: Positive
    """Held-out prompts."""
    batch_size: Positive
    """Prompts per batch of completions, and sequences per batch of the comparison."""
    max_new_tokens: Positive
    """Tokens after which a completion is cut."""
    precision: Precision
    """Number format of the sampler, and of both bodies in the comparison."""
    recorded_prompts: Count
    """The number of prompts, from the first, whose completions are recorded token by token for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """A model's completions of the held-out prompts, in the order of the prompts."""

    sampled: list[Sampled]  # at temperature 1
    greedy: list[Sampled]

    @property
    def eos_share(self) -> float:
        """The share of the sampled completions that end with an end token."""
        return sum(completion.finished for completion in self.sampled) / len(self.sampled)

    @property
    def tokens(self) -> int:
        """The number of tokens of all completions."""
        return sum(len(completion.token_ids) for completion in [*self.sampled, *self.greedy])


def complete(prompts: Sequence[Prompt], sampler: Sampler, p: EvaluationParams, *, title: str) -> Completions:
    """Return sampled and greedy completions of all prompts.

    Raises:
        DataError: When a prompt and a completion do not fit into the model's context.
    """
    pairs: dict[int, tuple[Sampled, Sampled]] = {}
    with bar(title, 2 * p.max_new_tokens * len(prompts)) as meter:
        for chunk in batches_by_length(prompts, p.batch_size):
            prompts_ids = [prompts[index].prompt_ids for index in chunk]
            sample_ids = [f"evaluate/{prompts[index].prompt_id}" for index in chunk]
            params = [_sampling(p, temperature) for temperature in (1.0, 0.0) for _ in chunk]
            completions = sampler.sample(prompts_ids * 2, sample_ids * 2, params)
            pairs |= zip(chunk, zip(completions[: len(chunk)], completions[len(chunk) :], strict=True), strict=True)
            meter.update(sum(len(completion.token_ids) for completion in completions))
        meter.total = meter.n
    in_order = [pairs[index] for index in range(len(prompts))]
    return Completions(sampled=[sampled for sampled, _ in in_order], greedy=[greedy for _, greedy in in_order])


def batches_by_length(prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    """Return the indices of all prompts in batches, the shortest prompts first."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].prompt_ids))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _sampling(p: EvaluationParams, temperature: float) -> Sampling:
    return Sampling(
        max_new_tokens=p.max_new_tokens,
        temperature=temperature,
        top_p=1.0,
        record_threshold=1.0,
        record_max=0,
        record_tail_samples=0,
    )


def judge(task: Task, prompts: Sequence[Prompt], completions: Sequence[Sampled], decode: Decode) -> list[Judged]:
    """Return the text and the task's score of each completion, in the order of the prompts."""
    texts = [decode(completion.token_ids) for completion in completions]
    return [
        Judged(text=text, references=prompt.references, score=task.score(text, prompt.references))
        for prompt, text in zip(prompts, texts, strict=True)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The metrics of a model's completions of the held-out prompts."""

    metrics: dict[str, float]
    errors: dict[str, float]  # the standard error of each metric over the prompts; none of a single prompt
    greedy: list[Judged]


def completion_metrics(
    task: Task, prompts: Sequence[Prompt], completions: Completions, decode: Decode, weights: Weights
) -> Measured:
    """Return the metrics of a model's completions, their standard errors, and its greedy completions with their scores.

    Args:
        task: The task, which defines the metrics.
        prompts: The held-out prompts.
        completions: The completions, in the order of the prompts.
        decode: Turns token ids into text.
        weights: The weights of the reward functions; without weights there is no metric `reward`.

    Raises:
        ParameterError: When a reward function does not exist.
        DataError: When a reward function returns no finite number.
    """
    pair = (completions.greedy, completions.sampled)
    greedy, sampled = (judge(task, prompts, samples, decode) for samples in pair)
    answers = [
        (judged.text, len(sample.token_ids), sample.finished)
        for judged, sample in zip(sampled, completions.sampled, strict=True)
    ]

    def sampled_metrics(part: Sequence[Judged]) -> dict[str, float]:
        return {f"sampled_{task.headline}": task.metrics(part)[task.headline]}

    metrics = task.metrics(greedy) | sampled_metrics(sampled) | {"eos_share": completions.eos_share}
    errors: dict[str, float] = {}
    rewards = completion_rewards(prompts, answers, weights)
    metrics |= {"reward": sum(rewards) / len(rewards)} if rewards else {}
    if len(prompts) > 1:
        errors = jackknife_errors(task.metrics, greedy) | jackknife_errors(sampled_metrics, sampled)
        errors["eos_share"] = error_of_mean([float(completion.finished) for completion in completions.sampled])
        errors |= {"reward": error_of_mean(rewards)} if rewards else {}
    return Measured(metrics=metrics, errors=errors, greedy=greedy)


def cut_warning(completions: Completions, limit: int) -> str | None:
    """Return a warning where most sampled completions were cut at `limit` tokens, so that metrics see beginnings."""
    cut, count = sum(not completion.finished for completion in completions.sampled), len(completions.sampled)
    if 2 * cut <= count:
        return None
    where = f"evaluation.max_new_tokens ({limit})"
    return f"{cut} of {count} sampled completions were cut at {where}; raise it, or train longer"
