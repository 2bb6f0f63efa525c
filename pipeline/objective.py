"""The distillation loss from a truncated teacher: what to compare, and on which tokens.

Bucket: both sides are mapped to C = K + 1 outcomes, the K stored tokens and "any other token", and the divergence is
taken there. By the data-processing inequality that is a lower bound of the dense divergence, never negative, and
equal to it when K covers the vocabulary. Renormalising over K, conditioning on K or dropping the tail, which others
do, move the optimum or stop penalising the student's mass outside K.

Tail draws: where the teacher's tail is heavy, the bucket's last term gives way to draws t_j from the teacher's own
tail, sum_j w_j f(q(t_j) / p(t_j)): unbiased in value and gradient, and what a student far from its teacher needs. Near
the teacher the bucket has hardly any bias left and the draws all of their noise, so each position mixes the two by its
own distance (docs/decisions.md has the measurements). Only for divergences whose gradient stays bounded where q
exceeds p.

Reward: the student maximises (1 - alpha) E[reward] - alpha E[divergence] (Agarwal et al., ICLR 2024, section 3.2). The
reward's term (`pipeline.surrogate`) is summed over tokens like everything here; all that it adds is a gradient through
the realised token's logit and the normaliser, so it costs nothing.

The student's tail is a log-sum-exp over the tokens outside K rather than 1 - sum q_K, which loses all its digits
when K holds nearly everything. Cost: see `pipeline.head`; [N, V] never exists at once.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from pipeline.divergence import DIVERGENCES, Divergence, DivergenceParams, kl_terms
from pipeline.errors import ParameterError
from pipeline.head import Head, Metrics, Seen, Targets, project
from pipeline.params import AboveZero, Fraction, Positive, Range
from pipeline.records import Batch
from pipeline.staleness import staleness_sums
from pipeline.surrogate import surrogate

_DRAWN = ("forward_kl", "skew_forward_kl")  # with the others a token that p hardly ever draws counts by q / p


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveParams:
    """What the student minimises."""

    divergence: DivergenceParams
    """The divergence, by name."""
    temperature: AboveZero
    """Of both distributions in the loss; must be one of scoring.temperatures."""
    tail_draws: bool
    """Use the stored draws from the teacher's tail where there are any; forward_kl and skew_forward_kl only."""
    tail_draws_scale: Annotated[float, Range(0)]
    """Nats: at a position whose bucketed forward KL is d, draws count 1 - exp(-d / scale) and the bucket's tail the
    rest. 0: draws alone, which is unbiased."""
    cross_entropy: Annotated[float, Range(0, 1)]
    """Share of -log q of the realised token in the loss (at the loss temperature), where not the student wrote it."""
    alpha: Fraction
    """Share of all of the above; the rest is the reward's. 1: distillation alone, which leaves the reward unused. Both
    are means over the tokens of a step: a reward spread over T tokens weighs 1 / T of it a token."""
    epsilon: AboveZero
    """The reward moves a token's probability until it is 1 + epsilon or 1 - epsilon times the rollout's."""
    chunk_tokens: Positive
    """Positions whose [chunk, V] logits exist at once."""


def check(p: ObjectiveParams) -> None:
    """Refuse combinations that are biased by construction."""
    if p.tail_draws and p.divergence.name not in _DRAWN:
        raise ParameterError(
            "objective.tail_draws",
            expected=f"false unless objective.divergence.name is one of {', '.join(_DRAWN)}",
            got=f"true with {p.divergence.name}",
            remedy="set objective.tail_draws: false",
        )
    if p.alpha < 1 and p.temperature != 1:
        raise ParameterError(
            "objective.temperature",
            expected="1 when objective.alpha is below 1: the reward is of what the student writes at temperature 1",
            got=p.temperature,
            remedy="set it to 1, or objective.alpha: 1",
        )


def temperature_column(p: ObjectiveParams, scored: tuple[float, ...]) -> int:
    """Where the loss temperature stands among the scored ones; the tail at another one cannot be recovered."""
    if p.temperature not in scored:
        raise ParameterError(
            "objective.temperature",
            expected=f"one of the scored temperatures {list(scored)}",
            got=p.temperature,
            remedy="add it to scoring.support.temperatures, which scores again",
        )
    return scored.index(p.temperature)


def batch_loss(
    p: ObjectiveParams, head: Head, hidden_ND: Tensor, batch: Batch, *, behaviour_temperature: float | None
) -> tuple[Tensor, Metrics]:
    """Sum of the loss over the batch's N positions, in nats, and sums of metrics over them.

    `behaviour_temperature` is that of the batch's behaviour log-probs, None where they compare with no student's.
    The caller divides by the token count of the whole accumulation window, so that splitting a batch changes nothing.
    """
    divergence = DIVERGENCES[p.divergence.name](p.divergence)

    def loss(seen: Seen, places: slice) -> tuple[Tensor, Metrics]:
        rows = Rows.of(batch, places)
        loss_N = distance(divergence, seen, rows, draws_scale=p.tail_draws_scale if p.tail_draws else None)
        loss_N, metrics = (
            _mixed(p, loss_N, seen, rows),
            _metrics(seen, rows, comparable=behaviour_temperature is not None),
        )
        if p.alpha == 1.0:
            return loss_N, metrics
        gain_N, clipping = surrogate(
            seen.token_N - seen.log_normaliser(), rows.behaviour_logp_N, rows.advantage_N, epsilon=p.epsilon
        )
        return p.alpha * loss_N - (1 - p.alpha) * gain_N, metrics | clipping

    targets = Targets(
        ids_NK=batch.ids_NK,
        padding_NK=torch.isneginf(batch.logp_NK),
        draw_ids_NJ=batch.draw_ids_NJ,
        token_ids_N=batch.token_ids_N,
        token_temperature=behaviour_temperature or p.temperature,
    )
    return project(head, hidden_ND, targets, loss, temperature=p.temperature, chunk=p.chunk_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The teacher's rows of one chunk of positions; see `Batch`."""

    fresh_N: Tensor
    behaviour_logp_N: Tensor
    advantage_N: Tensor
    logp_NK: Tensor
    tail_N: Tensor
    draw_logp_NJ: Tensor
    draw_logweight_NJ: Tensor
    has_draws_N: Tensor

    @classmethod
    def of(cls, batch: Batch, rows: slice) -> "Rows":
        """Some of a batch's positions."""
        names: tuple[str, ...] = cls.__slots__
        return cls(**{name: getattr(batch, name)[rows] for name in names})


def distance(divergence: Divergence, seen: Seen, rows: Rows, *, draws_scale: float | None) -> Tensor:
    """The divergence [N] over the bucket, or with the tail's term from its draws in rows that have any.

    Status: the bucket (`draws_scale` None) is a lower bound of the dense divergence, exact at K = V - 1; with draws at
    scale 0 the sum is unbiased (importance sampling restricted to the complement of the stored set), at another scale
    it lies between the two.
    """
    logz_N1 = seen.log_normaliser()[:, None]
    logp_NC = torch.cat([rows.logp_NK, rows.tail_N.log()[:, None]], -1)
    logits_NC = torch.cat([seen.stored_NK, seen.others_N[:, None]], -1)
    logp_NC = logp_NC.masked_fill(torch.isneginf(logits_NC), -torch.inf)  # padding; and K = V: what is left is rounding
    terms_NC = divergence.terms(logp_NC, logits_NC - logz_N1)
    if draws_scale is None:
        return terms_NC.sum(-1)
    weight_NJ = (rows.draw_logweight_NJ - rows.draw_logp_NJ).exp()
    drawn_N = (weight_NJ * divergence.terms(rows.draw_logp_NJ, seen.drawn_NJ - logz_N1)).sum(-1)
    share_N = torch.where(rows.has_draws_N, _draws_share(logp_NC, logits_NC - logz_N1, draws_scale), 0.0)
    return terms_NC[:, :-1].sum(-1) + share_N * drawn_N + (1 - share_N) * terms_NC[:, -1]


@torch.no_grad()
def _draws_share(logp_NC: Tensor, logq_NC: Tensor, scale: float) -> Tensor | float:
    """How much draws count [N]; of the stored row alone, so that no draw decides about itself."""
    return 1.0 if scale == 0.0 else -torch.expm1(-kl_terms(logp_NC, logq_NC).sum(-1) / scale)


def _mixed(p: ObjectiveParams, loss_N: Tensor, seen: Seen, rows: Rows) -> Tensor:
    """With the cross-entropy's share, where another than the student wrote the token."""
    if p.cross_entropy == 0.0:
        return loss_N
    share_N = torch.where(torch.isnan(rows.behaviour_logp_N), p.cross_entropy, 0.0)
    return (1 - share_N) * loss_N + share_N * (seen.log_normaliser() - seen.token_N)


@torch.no_grad()
def _metrics(seen: Seen, rows: Rows, *, comparable: bool) -> Metrics:
    """Sums over positions: how far the student has moved from the one that wrote the rollouts, and the tail."""
    known_N = rows.fresh_N & ~torch.isnan(rows.behaviour_logp_N) & comparable
    return {
        **staleness_sums(seen.token_logp_N, rows.behaviour_logp_N, known_N),
        "teacher_tail_sum": rows.tail_N.sum(),
        "token_nll_sum": (seen.log_normaliser() - seen.token_N).sum(),
    }
