"""f-divergences between teacher p and student q over outcomes C, from log-probabilities.

Every divergence is sum_c p_c f(q_c / p_c). Its `terms` are the summands, in the form that does not overflow, and its
`slope` is f' at log(q / p): what the student's probability of an outcome costs at the margin. Both take float tensors
of natural log-probs, [..., C] or any other shape, and work element by element; the sum of the terms is in nats, but for
tvd, which has no unit. An outcome that both sides give -inf is padding and counts nothing.

| name | f(w) | measures |
|---|---|---|
| forward_kl | -log w | KL(p, q) |
| reverse_kl | w log w | KL(q, p) |
| jsd | -b log m + (1 - b) w log(w / m), m = b + (1 - b) w | b KL(p, bp + (1 - b)q) + (1 - b) KL(q, bp + (1 - b)q) |
| skew_forward_kl | -log(a + (1 - a) w) | KL(p, ap + (1 - a)q) |
| skew_reverse_kl | w log(w / ((1 - a) + a w)) | KL(q, (1 - a)p + aq) |
| tvd | abs(w - 1) / 2 | half the sum of absolute differences |

Each is exact over the outcomes it is given; what stands for outcomes that were not stored,
`pipeline.losses.tail_estimators` says. Source of the family: Ali and Silvey, "A General Class of Coefficients of
Divergence of One Distribution from Another", 1966; that of each stands with it. The ends of jsd are not the KL
divergences (it goes to zero there), so 0 < beta < 1, and forward and reverse KL have names of their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor

from pipeline.runtime.config import Range

Terms: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # log p, log q


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceParams:
    """Which divergence the student minimises."""

    name: Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd"]
    """forward_kl: cover the teacher's mass; reverse_kl: seek its modes; jsd: between the two; skew_*: a KL towards a
    mixture with the own side, which tames it; tvd: bounded."""
    beta: Annotated[float, Range(0.001, 0.999)]
    """Weight of KL(p, m) in jsd; unused by the others."""
    skew: Annotated[float, Range(0.0, 0.999)]
    """Share of the own side in the mixture of skew_*; 0 is the plain KL."""
    normalise: bool
    """Divide jsd by beta (1 - beta), so that its size depends little on beta; false is the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One f-divergence, its parameters bound."""

    terms: Terms
    """p f(q / p) of each outcome; +inf where one side is zero and f says so."""
    slope: Terms
    """f'(q / p) of each outcome."""

    def __call__(self, logp: Tensor, logq: Tensor) -> Tensor:
        """The divergence over the last axis."""
        return self.terms(logp, logq).sum(-1)


def kl_terms(logp: Tensor, logq: Tensor) -> Tensor:
    """p log(p / q), zero where p is."""
    empty = torch.isneginf(logp)
    ratio = torch.where(empty, 0.0, logp - logq.masked_fill(empty, 0.0))
    return logp.exp() * ratio


def _mixture(logp: Tensor, logq: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q)."""
    if share == 0.0:
        return logq
    empty = torch.isneginf(logp) & torch.isneginf(logq)
    p, q = logp.masked_fill(empty, 0.0), logq.masked_fill(empty, 0.0)
    return torch.logaddexp(p + math.log(share), q + math.log1p(-share)).masked_fill(empty, -torch.inf)


def _forward_kl(_: DivergenceParams) -> Divergence:
    """Exact. Source: Kullback and Leibler, "On Information and Sufficiency", 1951; teacher first as in
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015."""
    return Divergence(terms=kl_terms, slope=lambda logp, logq: -(logp - logq).exp())


def _reverse_kl(_: DivergenceParams) -> Divergence:
    """Exact. Source: as forward KL; student first as in Gu et al., "MiniLLM", ICLR 2024."""
    return Divergence(terms=lambda logp, logq: kl_terms(logq, logp), slope=lambda logp, logq: logq - logp + 1)


def _jsd(params: DivergenceParams) -> Divergence:
    """Exact. Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, section 3."""
    b = params.beta
    scale = 1 / (b * (1 - b)) if params.normalise else 1.0

    def terms(logp: Tensor, logq: Tensor) -> Tensor:
        logm = _mixture(logp, logq, b)
        return scale * (b * kl_terms(logp, logm) + (1 - b) * kl_terms(logq, logm))

    return Divergence(terms=terms, slope=lambda logp, logq: scale * (1 - b) * (logq - _mixture(logp, logq, b)))


def _skew_forward_kl(params: DivergenceParams) -> Divergence:
    """Exact. Source: Ko et al., "DistiLLM", ICML 2024."""
    a = params.skew
    return Divergence(
        terms=lambda logp, logq: kl_terms(logp, _mixture(logp, logq, a)),
        slope=lambda logp, logq: -(1 - a) * (logp - _mixture(logp, logq, a)).exp(),
    )


def _skew_reverse_kl(params: DivergenceParams) -> Divergence:
    """Exact. Source: Ko et al., "DistiLLM", ICML 2024."""
    a = params.skew

    def slope(logp: Tensor, logq: Tensor) -> Tensor:
        logm = _mixture(logq, logp, a)
        return logq - logm + 1 - a * (logq - logm).exp()

    return Divergence(terms=lambda logp, logq: kl_terms(logq, _mixture(logq, logp, a)), slope=slope)


def _tvd(_: DivergenceParams) -> Divergence:
    """Exact; the slope at w = 1, where there is none, is 0. Source: Wen et al., "f-Divergence Minimization for
    Sequence-Level Knowledge Distillation", ACL 2023."""
    return Divergence(
        terms=lambda logp, logq: (logq.exp() - logp.exp()).abs() / 2, slope=lambda logp, logq: (logq - logp).sign() / 2
    )


DIVERGENCES: dict[str, Callable[[DivergenceParams], Divergence]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
    "skew_forward_kl": _skew_forward_kl,
    "skew_reverse_kl": _skew_reverse_kl,
    "tvd": _tvd,
}
