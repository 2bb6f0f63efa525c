"""The distillation loss from a truncated teacher: what to compare, and on which tokens.

A divergence (`pipeline.losses.divergences`) is had from a truncated row by one of the supports of
`pipeline.losses.tail_estimators`. `auto` takes draws for forward_kl and skew_forward_kl, and for the others G at
temperature 1 and the bucket at another; docs/decisions.md has the measurements.

Reward: the student maximises (1 - alpha) E[reward] - alpha E[divergence] (Agarwal et al., ICLR 2024, section 3.2). The
reward's term (`pipeline.losses.policy_gradient`) is summed over tokens like everything here; all that it adds is a
gradient through the realised token's logit and the normaliser, so it costs nothing.

Cost: see `pipeline.losses.fused_linear`; [N, V] never exists at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor

from pipeline.losses import tail_estimators as supports
from pipeline.losses.batch import Batch
from pipeline.losses.divergences import DIVERGENCES, Divergence, DivergenceParams
from pipeline.losses.fused_linear import LossTargets, Metrics, StudentLogits, project
from pipeline.losses.policy_gradient import policy_gradient
from pipeline.losses.staleness import staleness_sums
from pipeline.losses.tail_estimators import TeacherRows
from pipeline.models.head import Head
from pipeline.runtime.config import AboveZero, Fraction, Positive, Range
from pipeline.runtime.errors import ParameterError

TailEstimator: TypeAlias = Literal["bucket", "tail_samples", "tail_mean", "residual", "sampled"]

_AUTO: dict[str, TailEstimator] = {
    "forward_kl": "tail_samples",
    "skew_forward_kl": "tail_samples",
}  # tail_mean for the others
_ONLY = {
    "tail_samples": (
        "forward_kl",
        "skew_forward_kl",
    ),  # with the others a token that p hardly ever draws counts by q / p
    "tail_mean": ("reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd"),  # forward_kl's would be the bucket
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveParams:
    """What the student minimises."""

    divergence: DivergenceParams
    """The divergence, by name."""
    temperature: AboveZero
    """Of both distributions in the loss; must be one of scoring.temperatures."""
    tail_estimator: Literal["auto", "bucket", "tail_samples", "tail_mean", "residual", "sampled"]
    """What stands for the tokens that are not stored. bucket: "any other token", for every divergence, biased where the
    student is far off; draws: from the teacher's tail, forward_kl and skew_forward_kl; g: from the teacher's mean
    log-prob over the student's tail, all but forward_kl; residual: the bucket made unbiased at the realised token, and
    sampled: the realised token alone (with reverse_kl the reward log p - log q, "k1"), for every divergence, from
    untruncated sampling at temperature 1. auto: draws where they go, else g, and the bucket at another temperature
    than 1."""
    tail_samples_scale: Annotated[float, Range(0)]
    """Nats: at a position whose bucketed forward KL is d, draws count 1 - exp(-d / scale) and the bucket's tail the
    rest. 0: draws alone, which is unbiased."""
    tail_mean_staleness: AboveZero
    """Nats: at a position whose realised token the student has moved from by k (k3), G counts exp(-k /
    tail_mean_staleness) and the bucket's tail the rest."""
    cross_entropy: Annotated[float, Range(0, 1)]
    """Share of -log q of the realised token in the loss (at the loss temperature), where not the student wrote it."""
    alpha: Fraction
    """Share of all of the above; the rest is the reward's. 1: distillation alone, which leaves the reward unused. Both
    are means over the tokens of a step: a reward spread over T tokens weighs 1 / T of it a token."""
    clip_epsilon: AboveZero
    """The reward moves a token's probability until it is 1 + epsilon or 1 - epsilon times the rollout's."""
    chunk_tokens: Positive
    """Positions whose [chunk, V] logits exist at once."""


_SUPPORTS: dict[
    TailEstimator, Callable[[ObjectiveParams], Callable[[Divergence, StudentLogits, TeacherRows], Tensor]]
] = {
    "bucket": lambda _: supports.bucket,
    "tail_samples": lambda p: partial(supports.tail_samples, scale=p.tail_samples_scale),
    "tail_mean": lambda p: partial(supports.tail_mean, staleness=p.tail_mean_staleness),
    "residual": lambda _: supports.residual,
    "sampled": lambda _: supports.sampled,
}


def check(p: ObjectiveParams) -> None:
    """Refuse combinations that are biased by construction."""
    support = tail_estimator_of(p)
    if (only := _ONLY.get(support)) and p.divergence.name not in only:
        raise ParameterError(
            "objective.tail_estimator",
            expected=f"{support} with no other divergence than {', '.join(only)}",
            got=f"{support} with {p.divergence.name}",
            remedy="set objective.tail_estimator: auto",
        )
    if support == "tail_mean" and p.temperature != 1:
        raise ParameterError(
            "objective.tail_estimator",
            expected="tail_mean at objective.temperature 1 only, that of what is stored of the student's tail",
            got=p.temperature,
            remedy="set objective.tail_estimator: auto, or the temperature to 1",
        )
    if p.alpha < 1 and p.temperature != 1:
        raise ParameterError(
            "objective.temperature",
            expected="1 when objective.alpha is below 1: the reward is of what the student writes at temperature 1",
            got=p.temperature,
            remedy="set it to 1, or objective.alpha: 1",
        )


def tail_estimator_of(p: ObjectiveParams) -> TailEstimator:
    """The support in use."""
    if p.tail_estimator != "auto":
        return p.tail_estimator
    estimator: TailEstimator = _AUTO.get(p.divergence.name, "tail_mean")
    return "bucket" if estimator == "tail_mean" and p.temperature != 1 else estimator


def temperature_column(p: ObjectiveParams, scored: tuple[float, ...]) -> int:
    """Where the loss temperature stands among the scored ones; the tail at another one cannot be recovered."""
    if p.temperature not in scored:
        raise ParameterError(
            "objective.temperature",
            expected=f"one of the scored temperatures {list(scored)}",
            got=p.temperature,
            remedy="add it to scoring.truncation.temperatures, which scores again",
        )
    return scored.index(p.temperature)


def batch_loss(
    p: ObjectiveParams, head: Head, hidden_ND: Tensor, batch: Batch, *, behaviour_temperature: float | None
) -> tuple[Tensor, Metrics]:
    """Sum of the loss over the batch's N positions, in nats, and sums of metrics over them.

    `behaviour_temperature` is that of the batch's behaviour log-probs, None where they compare with no student's.
    The caller divides by the token count of the whole accumulation window, so that splitting a batch changes nothing.
    """
    divergence, support = DIVERGENCES[p.divergence.name](p.divergence), tail_estimator_of(p)
    distance = _SUPPORTS[support](p)

    def loss(seen: StudentLogits, places: slice) -> tuple[Tensor, Metrics]:
        rows = TeacherRows.of(batch, places)
        loss_N = _mixed(p, distance(divergence, seen, rows), seen, rows)
        metrics = _metrics(seen, rows, comparable=behaviour_temperature is not None)
        if p.alpha == 1.0:
            return loss_N, metrics
        gain_N, clipping = policy_gradient(
            seen.token_N - seen.log_normaliser(), rows.behaviour_logp_N, rows.advantage_N, epsilon=p.clip_epsilon
        )
        return p.alpha * loss_N - (1 - p.alpha) * gain_N, metrics | clipping

    targets = LossTargets(
        ids_NK=batch.ids_NK,
        padding_NK=torch.isneginf(batch.logp_NK),
        draw_ids_NJ=batch.draw_ids_NJ,
        token_ids_N=batch.token_ids_N,
        token_temperature=behaviour_temperature or p.temperature,
    )
    entropy = support == "tail_mean"
    return project(head, hidden_ND, targets, loss, temperature=p.temperature, chunk=p.chunk_tokens, entropy=entropy)


def _mixed(p: ObjectiveParams, loss_N: Tensor, seen: StudentLogits, rows: TeacherRows) -> Tensor:
    """With the cross-entropy's share, where another than the student wrote the token.

    Status: exact. Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2, without its
    factor T^2.
    """
    if p.cross_entropy == 0.0:
        return loss_N
    share_N = torch.where(torch.isnan(rows.behaviour_logp_N), p.cross_entropy, 0.0)
    return (1 - share_N) * loss_N + share_N * (seen.log_normaliser() - seen.token_N)


@torch.no_grad()
def _metrics(seen: StudentLogits, rows: TeacherRows, *, comparable: bool) -> Metrics:
    """Sums over positions: how far the student has moved from the one that wrote the rollouts, and the tail."""
    known_N = rows.fresh_N & ~torch.isnan(rows.behaviour_logp_N) & comparable
    return {
        **staleness_sums(seen.token_logp_N, rows.behaviour_logp_N, known_N),
        "teacher_tail_sum": rows.tail_N.sum(),
        "token_nll_sum": (seen.log_normaliser() - seen.token_N).sum(),
    }
