"""Measure how far a student is from its teacher on the student's own held-out completions.

* The divergences are dense, computed from both models' logits and not from the store. They are averaged over the
  positions of completions that the student sampled at temperature 1. The student is used on such texts, and on-policy
  distillation minimises the divergence there.
* Cost: no other step of the pipeline holds both models.
* Shapes: N completion positions, K = `LIKELIEST` tokens, V vocabulary, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pipeline.core.types import Prompt
from pipeline.evaluation.completions import EvaluationParams, batches_by_length
from pipeline.evaluation.measurements import Measurements, of_ratio
from pipeline.models import language_model as lm
from pipeline.models.finite import first_unpredicted, not_finite
from pipeline.models.head import Head
from pipeline.rollout.sampler import Sampled
from pipeline.runtime.progress import bar

LIKELIEST = 5  # tokens of each model that a comparison records
_POSITIONS = 256  # positions with logits in memory at a time
MEANS = ("forward_kl", "reverse_kl", "top1_agreement", "teacher_logp")
TokensOf: TypeAlias = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenComparison:
    """Teacher and student at one position of a held-out completion, for people to look at."""

    prompt_id: str
    position: int
    token: str  # the student's sample
    forward_kl: float  # nats
    reverse_kl: float  # nats
    teacher_tokens: list[str]  # the likeliest tokens, best first
    teacher_p: list[float]
    student_tokens: list[str]
    student_p: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPair:
    """A student and its teacher, as model directories with one tokenizer."""

    student: Path
    teacher: Path
    vocab_size: int  # only the first so many token ids are compared


class Agreement(NamedTuple):
    """The distance between teacher and student at N consecutive completion positions."""

    forward_kl_N: Tensor  # nats
    reverse_kl_N: Tensor  # nats
    top1_agreement_N: Tensor  # true where both models have the same likeliest token
    teacher_logp_N: Tensor  # nats, of the token of the completion
    teacher_ids_NK: Tensor  # the likeliest tokens, best first
    teacher_p_NK: Tensor
    student_ids_NK: Tensor
    student_p_NK: Tensor

    def means(self) -> dict[str, float]:
        """Return the mean divergences and teacher log-prob in nats per token, and the share of equal top tokens."""
        return {name: getattr(self, f"{name}_N").double().mean().item() for name in MEANS}

    def sums(self, name: str) -> tuple[float, int]:
        """Return the sum of one of these means over the positions, and the number of positions."""
        values_N = getattr(self, f"{name}_N").double()
        return values_N.sum().item(), len(values_N)

    def rows(self, prompt_id: str, token_ids: Sequence[int], tokens_of: TokensOf) -> Iterator[TokenComparison]:
        """Yield one row for each position of a completion.

        Args:
            prompt_id: The completion's prompt.
            token_ids: The N tokens of the completion.
            tokens_of: Returns the texts of single tokens by their ids.
        """
        for position, token in enumerate(tokens_of(token_ids)):
            yield TokenComparison(
                prompt_id=prompt_id,
                position=position,
                token=token,
                forward_kl=self.forward_kl_N[position].item(),
                reverse_kl=self.reverse_kl_N[position].item(),
                teacher_tokens=tokens_of(self.teacher_ids_NK[position].tolist()),
                teacher_p=self.teacher_p_NK[position].tolist(),
                student_tokens=tokens_of(self.student_ids_NK[position].tolist()),
                student_p=self.student_p_NK[position].tolist(),
            )


def compare(
    pair: ModelPair, prompts: Sequence[Prompt], completions: Sequence[Sampled], p: EvaluationParams, *, title: str
) -> list[Agreement]:
    """Compare two models at every position of each completion; see `compare_and_read`."""
    return compare_and_read(pair, prompts, completions, [], p, title=title)[0]


@torch.inference_mode()
def compare_and_read(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    completions: Sequence[Sampled],
    references: Sequence[Sampled],
    p: EvaluationParams,
    *,
    title: str,
) -> tuple[list[Agreement], list[float]]:
    """Compare two models at every position of each completion; the student reads the references in the same passes.

    Args:
        pair: The models; both are loaded.
        prompts: The prompts. Each model reads them once.
        completions: One completion of each prompt, of any origin.
        references: One reference of each prompt, or none at all.
        p: Batch size and precision.
        title: The title of the progress bar.

    Returns:
        The agreement of each completion, and the student's negative log-likelihood of each reference in nats, in the
        order of the prompts.

    Raises:
        ModelError: When a model cannot be loaded, or its logits contain NaN or infinity.
    """
    dtype = lm.resolve_dtype(p.precision)
    models = [lm.load_model(path) for path in (pair.teacher, pair.student)]
    teacher_head, student_head = (lm.head_of(model, pair.vocab_size) for model in models)
    texts = [(prompt.prompt_ids, sample.token_ids) for prompt, sample in zip(prompts, completions, strict=True)]
    agreements: dict[int, Agreement] = {}
    nats: dict[int, float] = {}
    with bar(title, sum(len(prompt) + len(tokens) for prompt, tokens in texts)) as meter, lm.autocast(dtype):
        for chunk in batches_by_length(prompts, p.batch_size):
            batch = [texts[i][0] for i in chunk], [texts[i][1] for i in chunk]
            to_read = [references[i].token_ids for i in chunk] if references else []
            taught_ND = lm.completion_hidden(models[0], *batch)
            student_ND = lm.completion_hidden(models[1], batch[0] * (2 if to_read else 1), batch[1] + to_read)
            sampled_N = torch.tensor([token for ids in batch[1] for token in ids], device=taught_ND.device)
            columns = (taught_ND, student_ND[: len(taught_ND)], sampled_N)
            parts = [
                _agreement(teacher_head(p_ND), student_head(q_ND), ids_N)
                for p_ND, q_ND, ids_N in zip(*(torch.split(column, _POSITIONS) for column in columns), strict=True)
            ]
            if to_read:
                nats |= zip(chunk, negative_logp(student_head, student_ND[len(taught_ND) :], to_read), strict=True)
            agreements |= zip(chunk, _split(concatenate(parts), list(map(len, batch[1]))), strict=True)
            for index in chunk:
                where = f"evaluation of prompt {prompts[index].prompt_id}"
                _check_finite(agreements[index], models, texts[index], pair.vocab_size, where, dtype)
            meter.update(sum(map(len, batch[0])) + sum(map(len, batch[1])))
    return [agreements[index] for index in range(len(texts))], [nats[index] for index in sorted(nats)]


def negative_logp(head: Head, hidden_ND: Tensor, completions: Sequence[list[int]]) -> list[float]:
    """Return the sum of the negative log-probs of each completion's tokens, in nats.

    Args:
        head: The projection of hidden states onto the vocabulary.
        hidden_ND: The hidden states that predict the tokens, completion after completion.
        completions: The token ids.
    """
    tokens_N = torch.tensor([token for ids in completions for token in ids], device=hidden_ND.device)
    pairs = zip(torch.split(hidden_ND, _POSITIONS), torch.split(tokens_N, _POSITIONS), strict=True)
    logp_N = torch.cat([head(part_ND).log_softmax(-1).gather(1, ids[:, None]) for part_ND, ids in pairs]).squeeze(1)
    return [-part_N.sum().item() for part_N in torch.split(logp_N.double(), list(map(len, completions)))]


def _agreement(p_NV: Tensor, q_NV: Tensor, sampled_N: Tensor) -> Agreement:
    """Compare the logits of teacher and student at the tokens of completions."""
    logp_NV, logq_NV = p_NV.log_softmax(-1), q_NV.log_softmax(-1)
    ratio_NV = logp_NV - logq_NV
    likeliest = min(LIKELIEST, logp_NV.shape[-1])
    top_p, top_q = logp_NV.topk(likeliest), logq_NV.topk(likeliest)
    return Agreement(
        forward_kl_N=_expectation(logp_NV, ratio_NV).cpu(),
        reverse_kl_N=-_expectation(logq_NV, ratio_NV).cpu(),
        top1_agreement_N=(top_p.indices[:, 0] == top_q.indices[:, 0]).cpu(),
        teacher_logp_N=logp_NV.gather(1, sampled_N[:, None]).squeeze(1).cpu(),
        teacher_ids_NK=top_p.indices.cpu(),
        teacher_p_NK=top_p.values.exp().cpu(),
        student_ids_NK=top_q.indices.cpu(),
        student_p_NK=top_q.values.exp().cpu(),
    )


def _expectation(logp_NV: Tensor, ratio_NV: Tensor) -> Tensor:
    """Return the expectation of a log-ratio [N]; a token of probability 0 adds 0."""
    terms_NV = logp_NV.exp() * ratio_NV
    sum_N = terms_NV.sum(-1)
    return terms_NV.masked_fill(logp_NV.isneginf(), 0.0).sum(-1) if sum_N.isnan().any() else sum_N


def _check_finite(
    agreement: Agreement,
    models: Sequence[lm.Model],
    text: tuple[list[int], list[int]],
    vocab: int,
    where: str,
    dtype: torch.dtype,
) -> None:
    """Check that both divergences are finite at every position of a completion.

    Args:
        agreement: The agreement at the completion's positions.
        models: Teacher and student.
        text: The token ids of the prompt and of the completion.
        vocab: The size of the tokenizer's vocabulary.
        where: The completion, for the message.
        dtype: The number format of the bodies.
    """
    bad_N = ~(agreement.forward_kl_N.isfinite() & agreement.reverse_kl_N.isfinite())
    if bad_N.any():
        position = int(bad_N.nonzero()[0, 0])
        is_teacher = bool(agreement.teacher_p_NK[position].isnan().any())
        model, positions = models[0 if is_teacher else 1], range(len(bad_N))
        position = first_unpredicted(model, *text, positions, first=position, vocab=vocab)
        at = f"completion token {position} in the {'teacher' if is_teacher else 'student'}"
        raise not_finite(model, where, at, dtype)


def concatenate(parts: Sequence[Agreement]) -> Agreement:
    """Return the positions of all parts, end to end."""
    return Agreement(*map(torch.cat, zip(*parts, strict=True)))


def agreement_metrics(prompts: Sequence[Prompt], agreements: Sequence[Agreement]) -> Measurements:
    """Return the means over all positions of the completions, in the order of the prompts."""
    sums = {name: [agreement.sums(name) for agreement in agreements] for name in MEANS}
    return {name: of_ratio(prompts, *zip(*pairs, strict=True)) for name, pairs in sums.items()}


def _split(whole: Agreement, lengths: list[int]) -> list[Agreement]:
    columns = [torch.split(values_N, lengths) for values_N in whole]
    return [Agreement(*parts) for parts in zip(*columns, strict=True)]
