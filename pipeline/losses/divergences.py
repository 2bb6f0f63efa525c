"""f-divergences between teacher p and student q over C outcomes, computed from log-probabilities.

Every divergence is D(p, q) = sum_c p_c f(q_c / p_c) (Ali and Silvey, "A General Class of Coefficients of Divergence of
One Distribution from Another", 1966):

| name | f(w) | definition |
|---|---|---|
| forward_kl | -log w | KL(p, q) |
| reverse_kl | w log w | KL(q, p) |
| jsd | -b log m + (1 - b) w log(w / m), m = b + (1 - b) w | b KL(p, bp + (1 - b)q) + (1 - b) KL(q, bp + (1 - b)q) |
| skew_forward_kl | -log(a + (1 - a) w) | KL(p, ap + (1 - a)q) |
| skew_reverse_kl | w log(w / ((1 - a) + a w)) | KL(q, (1 - a)p + aq) |
| tvd | abs(w - 1) / 2 | half the sum of absolute differences |

* All functions take natural log-probs of any shape and work element by element; outcomes are on the last axis.
* An outcome with log-prob -inf on both sides is padding and contributes 0.
* The sum is in nats, except for tvd, which has no unit.
* jsd needs 0 < b < 1: it tends to zero at both ends, not to a KL divergence.

`pipeline.losses.tail_estimators` handles outcomes that were not stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from annotated_types import Interval
from torch import Tensor

Terms: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # from log p and log q


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceParams:
    """The divergence that the student minimises."""

    name: Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd"]
    """Name of the divergence; docs/objective.md defines each one."""
    beta: Annotated[float, Interval(ge=0.001, le=0.999)]
    """Weight of KL(p, m) in jsd; the other divergences ignore it."""
    skew: Annotated[float, Interval(ge=0.0, le=0.999)]
    """Weight of the other side in the mixture of skew_forward_kl and skew_reverse_kl; 0 is the plain KL."""
    normalise: bool
    """Divide jsd by beta (1 - beta), so that its size depends little on beta; false is Agarwal et al. 2024 (GKD)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """An f-divergence with its parameters bound."""

    # The summand p f(q / p) of each outcome; +inf where one side is zero and f is infinite.
    terms: Terms
    # The derivative f'(q / p) at each outcome, which is the derivative of the divergence by q.
    slope: Terms

    def __call__(self, logp: Tensor, logq: Tensor) -> Tensor:
        """Return the sum of the terms over the last axis."""
        return self.terms(logp, logq).sum(-1)


def kl_terms(logp: Tensor, logq: Tensor) -> Tensor:
    """Return p log(p / q) element by element, and 0 where p is 0."""
    empty = torch.isneginf(logp)
    ratio = torch.where(empty, 0.0, logp - logq.masked_fill(empty, 0.0))
    return logp.exp() * ratio


def _mixture(logp: Tensor, logq: Tensor, share: float) -> Tensor:
    """Return log(share p + (1 - share) q)."""
    if share == 0.0:
        return logq
    # The gradient of logaddexp is NaN where both sides are -inf, so padding takes another value on the way in.
    empty = torch.isneginf(logp) & torch.isneginf(logq)
    p, q = logp.masked_fill(empty, 0.0), logq.masked_fill(empty, 0.0)
    return torch.logaddexp(p + math.log(share), q + math.log1p(-share)).masked_fill(empty, -torch.inf)


def _forward_kl(_: DivergenceParams) -> Divergence:
    """Return KL(p, q).

    Status: exact. Source: Kullback and Leibler, "On Information and Sufficiency", 1951; with the teacher first as in
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    return Divergence(terms=kl_terms, slope=lambda logp, logq: -(logp - logq).exp())


def _reverse_kl(_: DivergenceParams) -> Divergence:
    """Return KL(q, p).

    Status: exact. Source: as for the forward KL; with the student first as in Gu et al., "MiniLLM", ICLR 2024,
    section 2.1.
    """
    return Divergence(terms=lambda logp, logq: kl_terms(logq, logp), slope=lambda logp, logq: logq - logp + 1)


def _jsd(params: DivergenceParams) -> Divergence:
    """Return the generalised Jensen-Shannon divergence.

    Status: exact. Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, section 2.
    """
    b = params.beta
    scale = 1 / (b * (1 - b)) if params.normalise else 1.0

    def terms(logp: Tensor, logq: Tensor) -> Tensor:
        logm = _mixture(logp, logq, b)
        return scale * (b * kl_terms(logp, logm) + (1 - b) * kl_terms(logq, logm))

    return Divergence(terms=terms, slope=lambda logp, logq: scale * (1 - b) * (logq - _mixture(logp, logq, b)))


def _skew_forward_kl(params: DivergenceParams) -> Divergence:
    """Return KL(p, ap + (1 - a)q).

    Status: exact. Source: Ko et al., "DistiLLM", ICML 2024, section 3.1.
    """
    a = params.skew
    return Divergence(
        terms=lambda logp, logq: kl_terms(logp, _mixture(logp, logq, a)),
        slope=lambda logp, logq: -(1 - a) * (logp - _mixture(logp, logq, a)).exp(),
    )


def _skew_reverse_kl(params: DivergenceParams) -> Divergence:
    """Return KL(q, (1 - a)p + aq).

    Status: exact. Source: Ko et al., "DistiLLM", ICML 2024, section 3.1.
    """
    a = params.skew

    def slope(logp: Tensor, logq: Tensor) -> Tensor:
        logm = _mixture(logq, logp, a)
        return logq - logm + 1 - a * (logq - logm).exp()

    return Divergence(terms=lambda logp, logq: kl_terms(logq, _mixture(logq, logp, a)), slope=slope)


def _tvd(_: DivergenceParams) -> Divergence:
    """Return the total variation distance.

    Status: exact; f has no derivative at w = 1, and the slope is 0 there. Source: Wen et al., "f-Divergence
    Minimization for Sequence-Level Knowledge Distillation", ACL 2023.
    """
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
