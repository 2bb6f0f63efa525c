"""f-divergences between teacher p and student q over outcomes C, from log-probabilities.

Each function takes two float tensors [..., C] of natural log-probs, each normalised over C, and returns nats [...].
An outcome that both sides give -inf is padding and counts nothing. The table of f and its derivative stands in
docs/decisions.md; here each divergence is written in the form that does not overflow.

Generalised JSD: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, section 3:
beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q. Its ends are not the KL divergences (it goes
to zero there), so 0 < beta < 1, and forward and reverse KL have names of their own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor

from pipeline.params import Range

Divergence: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceParams:
    """Which divergence the student minimises."""

    name: Literal["forward_kl", "reverse_kl", "jsd"]
    """forward_kl: cover the teacher's mass; reverse_kl: seek its modes; jsd: between the two."""
    beta: Annotated[float, Range(0.001, 0.999)]
    """Weight of KL(p || m) in jsd; unused by the others."""


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p || q), summed over the last axis; +inf where q is zero and p is not."""
    empty = torch.isneginf(logp)
    ratio = torch.where(empty, 0.0, logp - logq.masked_fill(empty, 0.0))
    return (logp.exp() * ratio).sum(-1)


def forward_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p || q); f(w) = -log w."""
    return kl(logp, logq)


def reverse_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(q || p); f(w) = w log w."""
    return kl(logq, logp)


def jsd(beta: float) -> Divergence:
    """The generalised Jensen-Shannon divergence of the GKD paper, not divided by beta (1 - beta)."""

    def divergence(logp: Tensor, logq: Tensor) -> Tensor:
        empty = torch.isneginf(logp) & torch.isneginf(logq)
        p, q = logp.masked_fill(empty, 0.0), logq.masked_fill(empty, 0.0)
        logm = torch.logaddexp(p + math.log(beta), q + math.log1p(-beta)).masked_fill(empty, -torch.inf)
        return beta * kl(logp, logm) + (1 - beta) * kl(logq, logm)

    return divergence


DIVERGENCES: dict[str, Callable[[DivergenceParams], Divergence]] = {
    "forward_kl": lambda _: forward_kl,
    "reverse_kl": lambda _: reverse_kl,
    "jsd": lambda p: jsd(p.beta),
}
