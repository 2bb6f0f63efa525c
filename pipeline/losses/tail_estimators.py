"""The divergence from a truncated teacher: what stands for the tokens that were not stored.

| support | the tokens outside the stored set K are | value and gradient |
|---|---|---|
| bucket | one outcome, "any other token" | a lower bound, exact at K = V - 1 |
| draws | draws from the teacher's own tail | unbiased at scale 0 |
| g | spread as two means over the student's tail say | reverse KL: exact in value; jsd: bounded; see `tail_mean` |
| residual | the bucket, corrected at the realised token | unbiased |
| sampled | like those inside: nothing but the realised token counts | unbiased, of the highest variance |

A bucket never exceeds the dense divergence (data-processing inequality), so it is never negative. Renormalising over K,
conditioning on K or dropping the tail, which others do, move the optimum or stop penalising the student's mass outside
K.

`residual` and `sampled` weigh the realised token by q / b, b the probability under which it was drawn, so they hold
for old rollouts and for the teacher's; where b is unknown (the data set's text) the bucket stands in. Both are
unbiased only if every token could be drawn: temperature 1 and top_p 1, which `pipeline.workspace.validation` asks for.

Every function takes the divergence, what is seen of the student and the teacher's rows, and gives nats [N].

The student's tail is a log-sum-exp over the tokens outside K rather than 1 - sum q_K, which loses all its digits
when K holds nearly everything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.losses.batch import Batch
from pipeline.losses.divergences import Divergence, kl_terms
from pipeline.losses.fused_linear import StudentLogits

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_NORMAL = _NODES, _WEIGHTS / _WEIGHTS.sum()  # means over the standard normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows:
    """The teacher's rows of one chunk of positions; see `Batch`."""

    token_ids_N: Tensor
    token_logp_N: Tensor
    fresh_N: Tensor
    behaviour_logp_N: Tensor
    sampling_logp_N: Tensor
    advantage_N: Tensor
    ids_NK: Tensor
    logp_NK: Tensor
    tail_N: Tensor
    realised_only_N: Tensor
    tail_g_N: Tensor
    draw_logp_NJ: Tensor
    draw_logweight_NJ: Tensor
    has_draws_N: Tensor

    @classmethod
    def of(cls, batch: Batch, rows: slice) -> "TeacherRows":
        """Some of a batch's positions."""
        names: tuple[str, ...] = cls.__slots__
        return cls(**{name: getattr(batch, name)[rows] for name in names})


def bucket(divergence: Divergence, seen: StudentLogits, rows: TeacherRows) -> Tensor:
    """Over the K stored tokens and "any other token".

    Status: bounded below: never above the dense divergence nor below zero, and exact at K = V - 1. Source: merging
    outcomes shrinks every f-divergence (Ali and Silvey, 1966; Liese and Vajda, "On Divergences and Informations in
    Statistics and Information Theory", 2006).
    """
    return divergence(*_outcomes(seen, rows))


def _outcomes(seen: StudentLogits, rows: TeacherRows) -> tuple[Tensor, Tensor]:
    """log p and log q [N, C], the tail last."""
    logp_NC = torch.cat([rows.logp_NK, rows.tail_N.log()[:, None]], -1)
    logits_NC = torch.cat([seen.stored_NK, seen.others_N[:, None]], -1)
    logp_NC = logp_NC.masked_fill(torch.isneginf(logits_NC), -torch.inf)  # padding; and K = V: what is left is rounding
    return logp_NC, logits_NC - seen.log_normaliser()[:, None]


def tail_samples(divergence: Divergence, seen: StudentLogits, rows: TeacherRows, *, scale: float) -> Tensor:
    """The tail's term from draws t_j out of the teacher's tail, sum_j w_j f(q(t_j) / p(t_j)), in rows that have any.

    At a position whose bucketed forward KL is d they count 1 - exp(-d / scale) and the bucket's term the rest. Status:
    unbiased at scale 0 (importance sampling restricted to the complement of the stored set), between that and the
    bucket at another; only where a token that p hardly ever draws does not count by q / p. With `rskd`, which stores
    how often a token came for its probability, the gradient of forward KL is the same (its weights hold no p); the
    value then has log c / m for log p, off by what the student cannot change. Source: teachers by importance sampling:
    Anshumann et al., "Sparse Logit Sampling", ACL 2025; that draws are left to the tail alone, and shared out with the
    bucket by its own distance, is this project's.
    """
    logp_NC, logq_NC = _outcomes(seen, rows)
    terms_NC = divergence.terms(logp_NC, logq_NC)
    weight_NJ = (rows.draw_logweight_NJ - rows.draw_logp_NJ).exp()
    logq_NJ = seen.drawn_NJ - seen.log_normaliser()[:, None]
    drawn_N = (weight_NJ * divergence.terms(rows.draw_logp_NJ, logq_NJ)).sum(-1)
    share_N = torch.where(rows.has_draws_N, _draws_share(logp_NC, logq_NC, scale), 0.0)
    return terms_NC[:, :-1].sum(-1) + share_N * drawn_N + (1 - share_N) * terms_NC[:, -1]


@torch.no_grad()
def _draws_share(logp_NC: Tensor, logq_NC: Tensor, scale: float) -> Tensor | float:
    """How much draws count [N]; of the stored row alone, so that no draw decides about itself."""
    return 1.0 if scale == 0.0 else -torch.expm1(-kl_terms(logp_NC, logq_NC).sum(-1) / scale)


def tail_mean(divergence: Divergence, seen: StudentLogits, rows: TeacherRows, *, staleness: float) -> Tensor:
    """The bucket, and in its tail log-ratios r = log(q / p) that are normal over the student's tail, instead of equal.

    Two of their means are known: E[exp(-r)] = p_t / q_t from the masses, and E[r] = E[log q] - G. The normal
    distribution that has both is centred at log(q_t / p_t) + gap with variance 2 gap, gap = KL(q tail || p tail), the
    number that the bucket's reverse KL misses by q_t; the means of f and f' under it replace theirs at q_t / p_t.
    Status: reverse KL, for which E[r] alone counts, has its dense value, and the dense gradient but for how the mass is
    spread within the tail. The others are estimates; jsd's f' is, as the true mean is, between those at q_t / p_t (the
    bucket) and at exp(E[r]). Forward KL, for which E[exp(-r)] alone counts, would be the bucket.

    E[log q] is the current student's. No gradient flows into the means: with one, the student would flatten its tail
    even where it equals its teacher. G is its author's: at a position whose realised token is k nats off (k3,
    `pipeline.losses.staleness`) the gap counts exp(-k / staleness), and nothing outside this student's completions of
    the round. Source: this project; docs/objective.md derives it, docs/decisions.md measures it.
    """
    assert seen.others_entropy_N is not None, "project was not asked for the entropy"
    logp_NC, logq_NC = _outcomes(seen, rows)
    mass_N = logq_NC[:, -1].exp()
    with torch.no_grad():
        tail_N = logp_NC[:, -1]
        l_N = seen.token_logp_N - rows.behaviour_logp_N
        gap_N = torch.exp(-(torch.expm1(l_N) - l_N) / staleness) * (tail_N - seen.others_entropy_N - rows.tail_g_N)
        usable_N = rows.fresh_N & torch.isfinite(gap_N) & torch.isfinite(tail_N)
        ratio_N, gap_N = (torch.where(usable_N, one, 0.0) for one in (logq_NC[:, -1] - tail_N, gap_N))
        value_N = _spread_out(lambda r: divergence.terms(-r, torch.zeros_like(r)), ratio_N, gap_N)
        slope_N = _spread_out(lambda r: divergence.slope(-r, torch.zeros_like(r)), ratio_N, gap_N)
    return divergence(logp_NC, logq_NC) + mass_N.detach() * value_N + slope_N * (mass_N - mass_N.detach())


def _spread_out(of: Callable[[Tensor], Tensor], ratio_N: Tensor, gap_N: Tensor) -> Tensor:
    """How much larger the mean of a function is over normal log-ratios with this gap than at the bucket's.

    An odd function of the gap: G comes from draws, and where their noise makes a small gap negative, taking it for zero
    would be a bias.
    """
    nodes_J, weights_J = (torch.from_numpy(one).to(ratio_N) for one in _NORMAL)
    size_N1 = gap_N.abs()[:, None]
    mean_N = of(ratio_N[:, None] + size_N1 + (2 * size_N1).sqrt() * nodes_J) @ weights_J
    return gap_N.sign() * (mean_N - of(ratio_N))


def residual(divergence: Divergence, seen: StudentLogits, rows: TeacherRows) -> Tensor:
    """The bucket, and at a realised token y outside K the gradient q/b (f'(w_y) - f'(w_t)) grad log q(y), w = q/p.

    Status: unbiased in value and gradient for every f-divergence and whoever drew y with known b: over y, the second
    term sums to the difference of the dense gradient, sum over the tail of f'(w_i) grad q_i, and the bucket's. That
    needs a K which does not depend on y. Here y is always stored; where it is so only because it was realised
    (`realised_only_N`), it goes back among the others first. The price is y's own entry in the bucket. Source: this
    project; a score-function estimate (Williams, "Simple Statistical Gradient-Following Algorithms", 1992) with the
    bucket as control variate.
    """
    drawn_N = rows.realised_only_N & ~torch.isnan(rows.sampling_logp_N)
    y_NK = drawn_N[:, None] & (rows.ids_NK == rows.token_ids_N[:, None]) & ~torch.isneginf(rows.logp_NK)
    seen, rows = _put_back(seen, rows, drawn_N, y_NK)
    logp_NC, logq_NC = _outcomes(seen, rows)
    tail_N, others_N = logp_NC[:, -1], logq_NC[:, -1]
    token_N = seen.token_N - seen.log_normaliser()
    with torch.no_grad():
        slope_N = divergence.slope(rows.token_logp_N, token_N) - divergence.slope(tail_N, others_N)
        value_N = divergence.terms(rows.token_logp_N, token_N)
        value_N -= divergence.terms(tail_N, others_N) * (token_N - others_N).exp()
    return divergence(logp_NC, logq_NC) + _estimate(drawn_N, token_N, rows, slope_N, value_N)


def _put_back(
    seen: StudentLogits, rows: TeacherRows, drawn_N: Tensor, y_NK: Tensor
) -> tuple[StudentLogits, TeacherRows]:
    """The realised token among the others, for the student and for the teacher."""
    others_N = torch.where(drawn_N, torch.logaddexp(seen.others_N, seen.token_N), seen.others_N)
    p_N = rows.logp_NK.exp().masked_fill(~y_NK, 0.0).sum(-1)
    return (
        replace(seen, stored_NK=seen.stored_NK.masked_fill(y_NK, -torch.inf), others_N=others_N),
        replace(rows, logp_NK=rows.logp_NK.masked_fill(y_NK, -torch.inf), tail_N=rows.tail_N + p_N),
    )


def sampled(divergence: Divergence, seen: StudentLogits, rows: TeacherRows) -> Tensor:
    """Policy gradient q/b (f'(w_y) - f'(1)) grad log q(y) at the realised token y: no other token is looked at.

    With reverse_kl that is the reward log p(y) - log q(y), "k1", of on-policy distillation services. f'(1) is a
    baseline. Status: unbiased in value and gradient for every divergence. Source: Schulman, "Approximating KL
    divergence", 2020.
    """
    drawn_N = ~torch.isnan(rows.sampling_logp_N)
    token_N = seen.token_N - seen.log_normaliser()
    with torch.no_grad():
        none_N = torch.zeros_like(token_N)
        slope_N = divergence.slope(rows.token_logp_N, token_N) - divergence.slope(none_N, none_N)
        value_N = divergence.terms(rows.token_logp_N, token_N)
    found_N = _estimate(drawn_N, token_N, rows, slope_N, value_N)
    return found_N + torch.where(drawn_N, 0.0, bucket(divergence, seen, rows))


def _estimate(drawn_N: Tensor, token_N: Tensor, rows: TeacherRows, slope_N: Tensor, value_N: Tensor) -> Tensor:
    """value / b where y was drawn, with the gradient q/b slope grad log q(y); 0 elsewhere."""
    ratio_N = torch.where(drawn_N, slope_N * (token_N.detach() - rows.sampling_logp_N).exp(), 0.0)
    value_N = torch.where(drawn_N, value_N * (-rows.sampling_logp_N).exp(), 0.0)
    return ratio_N * (token_N - token_N.detach()) + value_N
