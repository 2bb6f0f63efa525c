"""Tail estimators: the divergence from a truncated teacher, with an estimate for the tokens that were not stored.

| tail estimator | the tokens outside the stored set K | value and gradient |
|---|---|---|
| bucket | are one outcome, "any other token" | lower bound, exact at K = V - 1 |
| tail_samples | are sampled from the teacher's tail | unbiased at scale 0 |
| tail_mean | have log-ratios with two known means over the student's tail | reverse KL: exact value; jsd: bounded |
| residual | are one outcome, corrected at the sampled token | unbiased |
| sampled | are ignored, as is K: only the sampled token counts | unbiased, with the highest variance |

* The other-token bucket never exceeds the dense divergence and is never negative. The usual alternatives are worse:
  renormalisation over K moves the optimum, and conditioning on K or dropping the tail puts no price on the student's
  mass outside K.
* `residual` and `sampled` weight the sampled token by q / b, where b is the probability under the policy that sampled
  it, so they hold for old rollouts and for the teacher's completions. Where b is unknown, as in references, the bucket
  is used. Both need untruncated sampling at temperature 1, which `pipeline.workspace.validation` checks.
* The student's mass outside K is the log-sum-exp of the unstored logits: 1 - sum q_K loses all digits when K holds
  nearly everything.

Every estimator takes a divergence, the student's logits and the teacher's rows, and returns nats per position [N].
Notation: p teacher, q student, w = q / p, index t for the total mass outside K. Array suffixes: N positions, K stored
tokens, C = K + 1 outcomes, J tail samples.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import Divergence, kl_terms
from pipeline.losses.fused_linear import StudentLogits

# Gauss-Hermite quadrature: nodes and weights of means over the standard normal distribution.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_NORMAL = _NODES, _WEIGHTS / _WEIGHTS.sum()


def bucket(divergence: Divergence, student: StudentLogits, teacher: TeacherRows) -> Tensor:
    """Return the divergence over the K stored tokens and one outcome "any other token".

    Status: a lower bound, never above the dense divergence nor below zero, and exact at K = V - 1. Source: merging
    outcomes never increases an f-divergence (Ali and Silvey, 1966; Liese and Vajda, "On Divergences and Informations in
    Statistics and Information Theory", 2006).
    """
    return divergence(*_outcomes(student, teacher))


def _outcomes(student: StudentLogits, teacher: TeacherRows) -> tuple[Tensor, Tensor]:
    """Return log p and log q [N, C] with the other-token bucket as the last outcome."""
    logp_NC = torch.cat([teacher.logp_NK, teacher.tail_N.log()[:, None]], -1)
    logits_NC = torch.cat([student.stored_NK, student.unstored_N[:, None]], -1)
    # An outcome that the student cannot have is padding, or the tail of a K that covers V: rounding error of p.
    logp_NC = logp_NC.masked_fill(torch.isneginf(logits_NC), -torch.inf)
    return logp_NC, logits_NC - student.log_normaliser()[:, None]


def tail_samples(divergence: Divergence, student: StudentLogits, teacher: TeacherRows, *, scale: float) -> Tensor:
    """Return the divergence with the tail's term estimated from samples t_j of the teacher's tail.

    The estimate is sum_j w_j f(q(t_j) / p(t_j)) with the weights w_j of `tail_sample_logweight_NJ`. At a position where
    the bucket's forward KL is d nats, the estimate has the weight 1 - exp(-d / scale), and the bucket's term of the
    tail has the rest. Positions without tail samples use the bucket.

    Status: unbiased at scale 0 (importance sampling restricted to the tail), and between the estimate and the bucket at
    other scales. Valid only for divergences in which a token that p hardly ever samples does not contribute by q / p.
    The codec `rskd` stores counts c of m samples instead of probabilities: the gradient of forward KL is the same,
    because it contains no p, and the value is off by a term that does not depend on the student. Source: importance
    samples of the teacher: Anshumann et al., "Sparse Logit Sampling", ACL 2025. The restriction to the tail and the
    mixture with the bucket are this project's.
    """
    logp_NC, logq_NC = _outcomes(student, teacher)
    terms_NC = divergence.terms(logp_NC, logq_NC)
    weight_NJ: Tensor = (teacher.tail_sample_logweight_NJ - teacher.tail_sample_logp_NJ).exp()
    logq_NJ = student.tail_sample_NJ - student.log_normaliser()[:, None]
    estimate_N = (weight_NJ * divergence.terms(teacher.tail_sample_logp_NJ, logq_NJ)).sum(-1)
    share_N: Tensor = torch.where(teacher.has_tail_samples_N, _samples_share(logp_NC, logq_NC, scale), 0.0)
    return terms_NC[:, :-1].sum(-1) + share_N * estimate_N + (1 - share_N) * terms_NC[:, -1]


@torch.no_grad()
def _samples_share(logp_NC: Tensor, logq_NC: Tensor, scale: float) -> Tensor | float:
    """Return the weight of the samples [N]. It depends on stored tokens only, so no sample decides its own weight."""
    return 1.0 if scale == 0.0 else -torch.expm1(-kl_terms(logp_NC, logq_NC).sum(-1) / scale)


def tail_mean(divergence: Divergence, student: StudentLogits, teacher: TeacherRows, *, staleness: float) -> Tensor:
    """Return the divergence with normally distributed log-ratios r = log(q / p) over the student's tail.

    The bucket sets r = r_t = log(q_t / p_t) for every token of the tail. Two means over the student's tail are known:
    E[exp(-r)] = p_t / q_t from the masses, and E[r] = E[log q] - G, where G is the stored mean of log p. The normal
    distribution with both means is N(r_t + gap, 2 gap), where gap = E[r] - r_t is the KL divergence of the student's
    tail from the teacher's tail, both normalised. The means of f and f' under this distribution replace the bucket's
    values at r_t. They are constants: with a gradient through them, the student would flatten its tail even where it
    equals the teacher. Only the mass of the tail has a gradient.

    G belongs to the student that sampled the rollout, and E[log q] to the current student. At a position where the
    student has moved by k nats at the sampled token (k3, `pipeline.losses.staleness`), the gap is multiplied by
    exp(-k / staleness). Positions that are not on-policy, or have no G, use the bucket.

    Status: reverse KL, where only E[r] counts, has its dense value, and its dense gradient except for the distribution
    of mass within the tail. The other divergences are estimates: f' of jsd lies between its value at r_t (the bucket)
    and its value at E[r], as the true mean does. Forward KL, where only E[exp(-r)] counts, would equal the bucket.
    Source: this project; see docs/objective.md for the derivation and docs/decisions/ for measurements.
    """
    assert student.unstored_entropy_N is not None, "FusedLinearLoss.entropy must be true"
    logp_NC, logq_NC = _outcomes(student, teacher)
    mass_N = logq_NC[:, -1].exp()
    with torch.no_grad():
        tail_N = logp_NC[:, -1]
        # gap = E[log q] - G - log(q_t / p_t). The entropy is that of the normalised tail: -E[log q] + log q_t.
        moved_N = student.token_logp_N - teacher.behaviour_logp_N
        weight_N = torch.exp(-(torch.expm1(moved_N) - moved_N) / staleness)
        gap_N = weight_N * (tail_N - student.unstored_entropy_N - teacher.tail_mean_N)
        usable_N = teacher.on_policy_N & torch.isfinite(gap_N) & torch.isfinite(tail_N)
        ratio_N = torch.where(usable_N, logq_NC[:, -1] - tail_N, 0.0)
        gap_N = torch.where(usable_N, gap_N, 0.0)
        value_N = _excess_mean(lambda r: divergence.terms(-r, torch.zeros_like(r)), ratio_N, gap_N)
        slope_N = _excess_mean(lambda r: divergence.slope(-r, torch.zeros_like(r)), ratio_N, gap_N)
    return divergence(logp_NC, logq_NC) + mass_N.detach() * value_N + slope_N * (mass_N - mass_N.detach())


def _excess_mean(function: Callable[[Tensor], Tensor], ratio_N: Tensor, gap_N: Tensor) -> Tensor:
    """Return the mean of a function over N(ratio + gap, 2 gap) minus its value at `ratio`, by quadrature.

    The result is an odd function of the gap. G is estimated from samples, so a small gap may come out negative;
    replacing it by zero would be a bias.
    """
    nodes_J, weights_J = (torch.from_numpy(array).to(ratio_N) for array in _NORMAL)
    size_N1 = gap_N.abs()[:, None]
    mean_N = function(ratio_N[:, None] + size_N1 + (2 * size_N1).sqrt() * nodes_J) @ weights_J
    return gap_N.sign() * (mean_N - function(ratio_N))


def residual(divergence: Divergence, student: StudentLogits, teacher: TeacherRows) -> Tensor:
    """Return the bucket, corrected at a sampled token y outside K.

    The correction has the gradient q(y)/b(y) (f'(w_y) - f'(w_t)) grad log q(y). Averaged over y it is the difference
    between the dense gradient, sum over the tail of f'(w_i) grad q_i, and the bucket's. This needs a K that does not
    depend on y, but y is always stored. Where y is stored only because it was sampled, y is therefore moved out of K
    first, at the price of y's own term in the bucket.

    Status: unbiased in value and gradient for every f-divergence and every policy with known b. Source: this project; a
    score-function estimate (Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
    Learning", 1992, section 4) with the bucket as control variate.
    """
    outside_N = teacher.stored_only_because_sampled_N & ~torch.isnan(teacher.sampling_logp_N)
    student, teacher = _move_out(student, teacher, outside_N)
    logp_NC, logq_NC = _outcomes(student, teacher)
    tail_logp_N, tail_logq_N = logp_NC[:, -1], logq_NC[:, -1]
    token_logq_N = student.token_N - student.log_normaliser()
    with torch.no_grad():
        slope_N = divergence.slope(teacher.token_logp_N, token_logq_N) - divergence.slope(tail_logp_N, tail_logq_N)
        value_N = divergence.terms(teacher.token_logp_N, token_logq_N)
        value_N -= divergence.terms(tail_logp_N, tail_logq_N) * (token_logq_N - tail_logq_N).exp()
    correction_N = _estimate(outside_N, token_logq_N, teacher.sampling_logp_N, slope_N, value_N)
    return divergence(logp_NC, logq_NC) + correction_N


def _move_out(student: StudentLogits, teacher: TeacherRows, outside_N: Tensor) -> tuple[StudentLogits, TeacherRows]:
    """Return student and teacher with the sampled token as an unstored one at the marked positions."""
    sampled_NK = (
        outside_N[:, None] & (teacher.ids_NK == teacher.token_ids_N[:, None]) & ~torch.isneginf(teacher.logp_NK)
    )
    unstored_N = torch.where(outside_N, torch.logaddexp(student.unstored_N, student.token_N), student.unstored_N)
    p_N = teacher.logp_NK.exp().masked_fill(~sampled_NK, 0.0).sum(-1)
    return (
        replace(student, stored_NK=student.stored_NK.masked_fill(sampled_NK, -torch.inf), unstored_N=unstored_N),
        replace(teacher, logp_NK=teacher.logp_NK.masked_fill(sampled_NK, -torch.inf), tail_N=teacher.tail_N + p_N),
    )


def sampled(divergence: Divergence, student: StudentLogits, teacher: TeacherRows) -> Tensor:
    """Return an estimate from the sampled token y alone, with the policy gradient q/b (f'(w_y) - f'(1)) grad log q(y).

    With reverse_kl the gradient is that of the reward log p(y) - log q(y) ("k1", Schulman 2020).
    f'(1) is a baseline. Where b is unknown, the bucket is used.

    Status: unbiased in value and gradient for every divergence. Source: Schulman, "Approximating KL divergence", 2020.
    """
    sampled_N = ~torch.isnan(teacher.sampling_logp_N)
    token_logq_N = student.token_N - student.log_normaliser()
    with torch.no_grad():
        zero_N = torch.zeros_like(token_logq_N)
        slope_N = divergence.slope(teacher.token_logp_N, token_logq_N) - divergence.slope(zero_N, zero_N)
        value_N = divergence.terms(teacher.token_logp_N, token_logq_N)
    estimate_N = _estimate(sampled_N, token_logq_N, teacher.sampling_logp_N, slope_N, value_N)
    return estimate_N + torch.where(sampled_N, 0.0, bucket(divergence, student, teacher))


def _estimate(
    sampled_N: Tensor, token_logq_N: Tensor, sampling_logp_N: Tensor, slope_N: Tensor, value_N: Tensor
) -> Tensor:
    """Return value / b with the gradient q/b slope grad log q(y) at the marked positions, and 0 elsewhere."""
    ratio_N = torch.where(sampled_N, slope_N * (token_logq_N.detach() - sampling_logp_N).exp(), 0.0)
    value_N = torch.where(sampled_N, value_N * (-sampling_logp_N).exp(), 0.0)
    return ratio_N * (token_logq_N - token_logq_N.detach()) + value_N
