"""The distillation objective from a truncated teacher: a divergence, a tail estimator, and a reward.

* A divergence (`pipeline.losses.divergences`) is computed from truncated rows by a tail estimator
  (`pipeline.losses.tail_estimators`). Decision 007 has the measurements behind the choice of `auto`.
* Reward: the student maximises (1 - alpha) E[reward] - alpha E[divergence] (Agarwal et al., ICLR 2024, section 3.2).
  The reward's term (`pipeline.losses.policy_gradient`) is summed over tokens like the divergence. It needs only the
  sampled token's logit and the normaliser, so its time is negligible.
* Memory: `pipeline.losses.fused_linear` never stores [N, V].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import DIVERGENCES, Divergence, DivergenceParams
from pipeline.losses.fused_linear import FusedLinearLoss, Metrics, StudentLogits
from pipeline.losses.policy_gradient import policy_gradient
from pipeline.losses.staleness import staleness_sums
from pipeline.losses.tail_estimators import bucket, residual, sampled, tail_mean, tail_samples
from pipeline.models.head import Head
from pipeline.runtime.config import AboveZero, Fraction, NonNegative, Positive
from pipeline.runtime.errors import ParameterError

TailEstimator: TypeAlias = Literal["bucket", "tail_samples", "tail_mean", "residual", "sampled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveParams:
    """The objective that the student minimises."""

    divergence: DivergenceParams
    """The divergence between teacher and student."""
    temperature: AboveZero
    """Temperature of both distributions in the loss; must be one of scoring.truncation.temperatures."""
    tail_estimator: Literal["auto", TailEstimator]
    """Estimate for the tokens that are not stored; docs/objective.md defines each one, and what auto uses."""
    tail_samples_scale: NonNegative
    """Nats of bucketed forward KL at which tail samples weigh 1 - 1/e beside the bucket; 0: only they count."""
    tail_mean_staleness: AboveZero
    """Nats of staleness (k3) at the sampled token at which the tail mean weighs 1/e beside the bucket."""
    cross_entropy: Fraction
    """Weight of the cross-entropy -log q of the token, at the loss temperature, where no student sampled it."""
    alpha: Fraction
    """Weight of the divergence; the reward has weight 1 - alpha. 1 disables the reward."""
    clip_epsilon: AboveZero
    """PPO clip range of the probability ratio in the reward's term."""
    chunk_tokens: Positive
    """Positions whose logits [chunk, V] are in memory at the same time."""


Estimate: TypeAlias = Callable[[Divergence, StudentLogits, TeacherRows], Tensor]  # nats per position [N]
TAIL_ESTIMATORS: dict[TailEstimator, Callable[[ObjectiveParams], Estimate]] = {
    "bucket": lambda _: bucket,
    "tail_samples": lambda p: partial(tail_samples, scale=p.tail_samples_scale),
    "tail_mean": lambda p: partial(tail_mean, staleness=p.tail_mean_staleness),
    "residual": lambda _: residual,
    "sampled": lambda _: sampled,
}
# Estimators that do not serve every divergence. With a divergence that is not listed, a token that the teacher hardly
# ever samples would contribute by q / p to tail_samples, and tail_mean would equal the bucket.
DIVERGENCES_OF: dict[TailEstimator, tuple[str, ...]] = {
    "tail_samples": ("forward_kl", "skew_forward_kl"),
    "tail_mean": ("reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd"),
}


def check_objective(p: ObjectiveParams) -> None:
    """Refuse combinations that are biased by construction.

    Raises:
        ParameterError: if estimator and divergence, estimator and temperature, or reward and temperature do not match.
    """
    estimator, divergence, temperature = tail_estimator_of(p), p.divergence.name, p.temperature
    where, remedy = "objective.tail_estimator", "set objective.tail_estimator: auto"
    if (names := DIVERGENCES_OF.get(estimator)) and divergence not in names:
        expected = f"{estimator} with no other divergence than {', '.join(names)}"
        raise ParameterError(where, expected=expected, got=f"{estimator} with {divergence}", remedy=remedy)
    if estimator == "tail_mean" and temperature != 1:
        expected = "tail_mean at objective.temperature 1 only, because the tail mean is stored at temperature 1"
        raise ParameterError(where, expected=expected, got=temperature, remedy=f"{remedy}, or the temperature to 1")
    if p.alpha < 1 and temperature != 1:
        expected = "1 when objective.alpha is below 1, because rewards are of completions sampled at temperature 1"
        remedy = "set it to 1, or objective.alpha: 1"
        raise ParameterError("objective.temperature", expected=expected, got=temperature, remedy=remedy)


def tail_estimator_of(p: ObjectiveParams) -> TailEstimator:
    """Return the name of the tail estimator in use, with `auto` resolved."""
    if p.tail_estimator != "auto":
        return p.tail_estimator
    if p.divergence.name in DIVERGENCES_OF["tail_samples"]:
        return "tail_samples"
    return "tail_mean" if p.temperature == 1 else "bucket"


def temperature_column(p: ObjectiveParams, scored: tuple[float, ...]) -> int:
    """Return the index of the loss temperature among the scored temperatures.

    Raises:
        ParameterError: if it is not among them, because the tail at another temperature cannot be recovered.
    """
    if p.temperature not in scored:
        expected = f"one of the scored temperatures {list(scored)}"
        remedy = "add it to scoring.truncation.temperatures, which scores again"
        raise ParameterError("objective.temperature", expected=expected, got=p.temperature, remedy=remedy)
    return scored.index(p.temperature)


def batch_loss(
    p: ObjectiveParams, head: Head, hidden_ND: Tensor, teacher: TeacherRows, *, behaviour_temperature: float | None
) -> tuple[Tensor, Metrics]:
    """Compute the loss of a batch.

    Args:
        p: the objective.
        head: the student's LM head.
        hidden_ND: the student's hidden states that predict the N completion tokens.
        teacher: the teacher's rows of the same positions, at the loss temperature, as tensors.
        behaviour_temperature: the temperature of the behaviour log-probs; None if they cannot be compared with a
            student's log-probs.

    Returns:
        The sum of the loss over positions in nats, and sums of metrics over positions. Divide by the token count of the
        whole accumulation window, so that the split into batches changes nothing.
    """
    divergence, estimator = DIVERGENCES[p.divergence.name](p.divergence), tail_estimator_of(p)
    estimate = TAIL_ESTIMATORS[estimator](p)

    def loss(student: StudentLogits, span: slice) -> tuple[Tensor, Metrics]:
        rows = teacher[span]
        loss_N = _with_cross_entropy(p, estimate(divergence, student, rows), student, rows)
        metrics = _metrics(student, rows, comparable=behaviour_temperature is not None)
        if p.alpha == 1.0:
            return loss_N, metrics
        logq_N = student.token_N - student.log_normaliser()
        gain_N, clipping = policy_gradient(logq_N, rows.behaviour_logp_N, rows.advantage_N, epsilon=p.clip_epsilon)
        return p.alpha * loss_N - (1 - p.alpha) * gain_N, metrics | clipping

    return FusedLinearLoss(
        head=head,
        targets=teacher,
        loss=loss,
        temperature=p.temperature,
        token_temperature=behaviour_temperature or p.temperature,
        chunk=p.chunk_tokens,
        entropy=estimator == "tail_mean",
    )(hidden_ND)


def _with_cross_entropy(p: ObjectiveParams, loss_N: Tensor, student: StudentLogits, teacher: TeacherRows) -> Tensor:
    """Return the loss mixed with the cross-entropy of tokens that no student sampled.

    Status: exact. Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2, without the
    factor T^2.
    """
    if p.cross_entropy == 0.0:
        return loss_N
    share_N = torch.where(torch.isnan(teacher.behaviour_logp_N), p.cross_entropy, 0.0)
    return (1 - share_N) * loss_N + share_N * (student.log_normaliser() - student.token_N)


@torch.no_grad()
def _metrics(student: StudentLogits, teacher: TeacherRows, *, comparable: bool) -> Metrics:
    """Return sums over positions: staleness, the teacher's tail mass, and the student's cross-entropy."""
    compared_N = teacher.on_policy_N & ~torch.isnan(teacher.behaviour_logp_N) & comparable
    return {
        **staleness_sums(student.token_logp_N, teacher.behaviour_logp_N, compared_N),
        "teacher_tail_sum": teacher.tail_N.sum(),
        "token_nll_sum": (student.log_normaliser() - student.token_N).sum(),
    }
