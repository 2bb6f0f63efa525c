"""How far a student is from its teacher, on the student's own held-out rollouts, densely and not from the store.

The divergences are averaged over the positions of completions that the student sampled at temperature 1: that is
where it will be used, and what on-policy distillation minimises. The task metric is taken on greedy completions. This
is the one step that holds both models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import lm
from pipeline.engines.base import Sampled, Sampler, Sampling
from pipeline.params import Positive
from pipeline.progress import bar
from pipeline.records import Precision, Prompt


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """What a model wrote for the held-out prompts."""

    sampled: list[Sampled]  # temperature 1
    greedy: list[Sampled]

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
        max_new_tokens=p.max_new_tokens, temperature=temperature, top_p=1.0, support_threshold=1.0, support_max=0
    )


def task_metrics(
    prompts: Sequence[Prompt],
    completions: Completions,
    decode: Callable[[list[int]], str],
    score: Callable[[str, str], float],
) -> dict[str, float]:
    """Mean task score of the greedy completions, and the share of sampled completions that end with eos."""
    scores = [
        score(decode(one.token_ids), prompt.reference_text)
        for one, prompt in zip(completions.greedy, prompts, strict=True)
    ]
    return {
        "score": sum(scores) / len(scores),
        "eos_share": sum(one.ended for one in completions.sampled) / len(completions.sampled),
    }


@torch.inference_mode()
def compare(
    student: Path,
    teacher: Path,
    prompts: Sequence[Prompt],
    completions: Sequence[Sampled],
    p: EvaluationParams,
    *,
    vocab: int,
    title: str,
) -> dict[str, float]:
    """Forward and reverse KL (nats per token) and top-1 agreement over all positions of the completions."""
    dtype = lm.resolve_dtype(p.precision)
    models = {"p": lm.load_model(teacher), "q": lm.load_model(student)}
    heads = {name: lm.head_of(model, vocab) for name, model in models.items()}
    sums = {"forward_kl": 0.0, "reverse_kl": 0.0, "top1_agreement": 0.0}
    positions = sum(len(one.token_ids) for one in completions)
    pairs = sorted(zip(prompts, completions, strict=True), key=lambda pair: len(pair[0].prompt_ids))
    total = sum(len(prompt.prompt_ids) + len(one.token_ids) for prompt, one in pairs)
    with bar(title, total) as meter, lm.autocast(dtype):
        for start in range(0, len(pairs), p.batch_size):
            chunk = pairs[start : start + p.batch_size]
            texts = [prompt.prompt_ids for prompt, _ in chunk], [one.token_ids for _, one in chunk]
            hidden = {name: lm.completion_hidden(model, *texts) for name, model in models.items()}
            for p_ND, q_ND in zip(torch.split(hidden["p"], 256), torch.split(hidden["q"], 256), strict=True):
                logp_NV, logq_NV = heads["p"](p_ND).log_softmax(-1), heads["q"](q_ND).log_softmax(-1)
                ratio_NV = logp_NV - logq_NV
                sums["forward_kl"] += (logp_NV.exp() * ratio_NV).sum().item()
                sums["reverse_kl"] -= (logq_NV.exp() * ratio_NV).sum().item()
                sums["top1_agreement"] += (logp_NV.argmax(-1) == logq_NV.argmax(-1)).sum().item()
            meter.update(sum(map(len, texts[0])) + sum(map(len, texts[1])))
    return {name: value / positions for name, value in sums.items()}
