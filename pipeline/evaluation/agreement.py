"""How far a student is from its teacher, on the student's own held-out rollouts, densely and not from the store.

The divergences are averaged over the positions of completions that the student sampled at temperature 1: that is
where it will be used, and what on-policy distillation minimises. The task metric is taken on greedy completions. This
is the one step that holds both models.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.core.types import Prompt
from pipeline.evaluation.completions import EvaluationParams
from pipeline.models import language_model as lm
from pipeline.rollout.sampler import Sampled
from pipeline.runtime.progress import bar


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenComparison:
    """Teacher and student at one position of a held-out completion, for people to look at."""

    prompt_id: str
    position: int
    token: str  # what the student sampled there
    forward_kl: float  # nats
    reverse_kl: float
    teacher_tokens: list[str]  # the likeliest, best first
    teacher_p: list[float]
    student_tokens: list[str]
    student_p: list[float]


LIKELIEST = 5  # tokens of either model that a comparison keeps
_POSITIONS = 256  # whose logits are in memory at once
TokensOf: TypeAlias = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far apart teacher and student are at N consecutive completion positions."""

    forward_kl_N: Tensor  # nats
    reverse_kl_N: Tensor
    same_top1_N: Tensor
    teacher_logp_N: Tensor  # nats, of the token that the student wrote
    teacher_ids_NK: Tensor  # the LIKELIEST tokens, best first
    teacher_p_NK: Tensor
    student_ids_NK: Tensor
    student_p_NK: Tensor

    def means(self) -> dict[str, float]:
        """Divergences and the teacher's log-likelihood in nats a token, and how often both like the same token best."""
        measured = {
            "forward_kl": self.forward_kl_N,
            "reverse_kl": self.reverse_kl_N,
            "top1_agreement": self.same_top1_N,
            "teacher_logp": self.teacher_logp_N,
        }
        return {name: values_N.double().mean().item() for name, values_N in measured.items()}

    def rows(self, prompt_id: str, token_ids: Sequence[int], tokens_of: TokensOf) -> Iterator[TokenComparison]:
        """One row a position of one completion; `tokens_of` gives ids as the texts of single tokens."""
        columns = (
            self.forward_kl_N,
            self.reverse_kl_N,
            self.teacher_ids_NK,
            self.teacher_p_NK,
            self.student_ids_NK,
            self.student_p_NK,
        )
        tokens = tokens_of(token_ids)
        for position, row in enumerate(zip(tokens, *(one.tolist() for one in columns), strict=True)):
            token, forward, reverse, teacher_ids, teacher_p, student_ids, student_p = row
            yield TokenComparison(
                prompt_id=prompt_id,
                position=position,
                token=token,
                forward_kl=forward,
                reverse_kl=reverse,
                teacher_tokens=tokens_of(teacher_ids),
                teacher_p=teacher_p,
                student_tokens=tokens_of(student_ids),
                student_p=student_p,
            )


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
) -> list[Agreement]:
    """Both models' distributions at every position of each completion, in the order of the prompts."""
    dtype = lm.resolve_dtype(p.precision)
    models = [lm.load_model(path) for path in (teacher, student)]
    heads = [lm.head_of(model, vocab) for model in models]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].prompt_ids))
    found: dict[int, Agreement] = {}
    total = sum(len(prompt.prompt_ids) + len(one.token_ids) for prompt, one in zip(prompts, completions, strict=True))
    with bar(title, total) as meter, lm.autocast(dtype):
        for start in range(0, len(order), p.batch_size):
            chunk = order[start : start + p.batch_size]
            texts = [prompts[i].prompt_ids for i in chunk], [completions[i].token_ids for i in chunk]
            hidden = [torch.split(lm.completion_hidden(model, *texts), _POSITIONS) for model in models]
            written_N = torch.tensor([one for ids in texts[1] for one in ids], device=hidden[0][0].device)
            parts = [
                _agreement(heads[0](p_ND), heads[1](q_ND), ids_N)
                for p_ND, q_ND, ids_N in zip(*hidden, torch.split(written_N, _POSITIONS), strict=True)
            ]
            whole, lengths = join(parts), [len(one) for one in texts[1]]
            found.update(zip(chunk, _split(whole, lengths), strict=True))
            meter.update(sum(map(len, texts[0])) + sum(map(len, texts[1])))
    return [found[index] for index in range(len(prompts))]


def _agreement(p_NV: Tensor, q_NV: Tensor, written_N: Tensor) -> Agreement:
    """From the logits of teacher and student, and the tokens that the student wrote."""
    logp_NV, logq_NV = p_NV.log_softmax(-1), q_NV.log_softmax(-1)
    ratio_NV = logp_NV - logq_NV
    likeliest = min(LIKELIEST, logp_NV.shape[-1])
    top_p, top_q = logp_NV.topk(likeliest), logq_NV.topk(likeliest)
    return Agreement(
        forward_kl_N=(logp_NV.exp() * ratio_NV).sum(-1).cpu(),
        reverse_kl_N=-(logq_NV.exp() * ratio_NV).sum(-1).cpu(),
        same_top1_N=(top_p.indices[:, 0] == top_q.indices[:, 0]).cpu(),
        teacher_logp_N=logp_NV.gather(1, written_N[:, None]).squeeze(1).cpu(),
        teacher_ids_NK=top_p.indices.cpu(),
        teacher_p_NK=top_p.values.exp().cpu(),
        student_ids_NK=top_q.indices.cpu(),
        student_p_NK=top_q.values.exp().cpu(),
    )


def join(parts: Sequence[Agreement]) -> Agreement:
    """All their positions, end to end."""
    columns = {field.name: [getattr(one, field.name) for one in parts] for field in dataclasses.fields(Agreement)}
    return Agreement(**{name: torch.cat(tensors) for name, tensors in columns.items()})


def _split(whole: Agreement, lengths: list[int]) -> list[Agreement]:
    columns = {field.name: torch.split(getattr(whole, field.name), lengths) for field in dataclasses.fields(Agreement)}
    return [Agreement(**{name: parts[row] for name, parts in columns.items()}) for row in range(len(lengths))]
