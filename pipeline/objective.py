"""The distillation loss from a truncated teacher: what to compare, and on which tokens.

Bucket: both sides are mapped to C = K + 1 outcomes, the K stored tokens and "any other token", and the divergence is
taken there. By the data-processing inequality that is a lower bound of the dense divergence, never negative, and
equal to it when K covers the vocabulary. Renormalising over K, conditioning on K or dropping the tail, which others
do, move the optimum or stop penalising the student's mass outside K.

Tail draws (forward KL): where the teacher's tail is heavy, the bucket's last term is replaced by draws t_j from the
teacher's own tail, sum_j w_j [log p(t_j) - log q(t_j)]: unbiased in value and gradient, and what a student far
from its teacher needs (docs/decisions.md has the measurement).

The student's tail is a log-sum-exp over the tokens outside K rather than 1 - sum q_K, which loses all its digits
when K holds nearly everything. Cost: one pass over [chunk, V] in fp32; [N, V] never exists at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.divergence import DIVERGENCES, DivergenceParams
from pipeline.errors import ParameterError
from pipeline.params import AboveZero, Positive
from pipeline.records import Batch

Head = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveParams:
    """What the student minimises."""

    divergence: DivergenceParams
    """The divergence, by name."""
    temperature: AboveZero
    """Of both distributions in the loss; must be one of scoring.temperatures."""
    tail_draws: bool
    """Use the stored draws from the teacher's tail where there are any; forward_kl only."""
    chunk_tokens: Positive
    """Positions whose [chunk, V] logits exist at once."""


def check(p: ObjectiveParams) -> None:
    """Refuse combinations that are biased by construction."""
    if p.tail_draws and p.divergence.name != "forward_kl":
        raise ParameterError(
            "objective.tail_draws",
            expected="false unless objective.divergence.name is forward_kl",
            got=f"true with {p.divergence.name}",
            remedy="set objective.tail_draws: false",
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


def batch_loss(p: ObjectiveParams, head: Head, hidden_ND: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the divergence over the batch's N positions, in nats, and sums of metrics over them.

    `head` maps hidden states [N, D] to fp32 logits [N, V] over the shared vocabulary. The caller divides by the token
    count of the whole accumulation window, so that splitting a batch changes nothing.
    """
    total = hidden_ND.new_zeros((), dtype=torch.float32)
    sums: dict[str, Tensor] = {}
    for start in range(0, hidden_ND.shape[0], p.chunk_tokens):
        rows = _Rows.of(batch, slice(start, start + p.chunk_tokens))
        args = (p, head, hidden_ND[start : start + p.chunk_tokens], rows)
        if hidden_ND.shape[0] <= p.chunk_tokens:  # backward begins here: making the logits again would save nothing
            loss, metrics = _chunk_loss(*args)
        else:
            loss, metrics = checkpoint(_chunk_loss, *args, use_reentrant=False)
        total = total + loss
        for name, value in metrics.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
    return total, sums


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The teacher's rows of one chunk of positions."""

    token_ids_N: Tensor
    behaviour_logp_N: Tensor
    ids_NK: Tensor
    logp_NK: Tensor
    tail_N: Tensor
    draw_ids_NJ: Tensor
    draw_logp_NJ: Tensor
    draw_logweight_NJ: Tensor
    has_draws_N: Tensor

    @classmethod
    def of(cls, batch: Batch, rows: slice) -> "_Rows":
        names: tuple[str, ...] = cls.__slots__
        return cls(**{name: getattr(batch, name)[rows] for name in names})


def _chunk_loss(p: ObjectiveParams, head: Head, hidden_ND: Tensor, rows: _Rows) -> tuple[Tensor, dict[str, Tensor]]:
    logits_NV = head(hidden_ND)
    if p.temperature != 1.0:  # spares a copy of [chunk, V]
        logits_NV = logits_NV / p.temperature
    logp_NC, logq_NC, logz_N = bucket(logits_NV, rows.ids_NK, rows.logp_NK, rows.tail_N)
    if p.tail_draws:
        loss_N = drawn_forward_kl(logits_NV, logz_N, logp_NC, logq_NC, rows)
    else:
        loss_N = DIVERGENCES[p.divergence.name](p.divergence)(logp_NC, logq_NC)
    return loss_N.sum(), _metrics(p, logits_NV, logz_N, rows)


def bucket(logits_NV: Tensor, ids_NK: Tensor, logp_NK: Tensor, tail_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of teacher and student over C = K + 1 outcomes, and the student's log-sum-exp over V [N].

    Padding entries repeat a stored id of their row and carry log-prob -inf on both sides.
    """
    stored_NK = logits_NV.gather(-1, ids_NK)
    padding_NK = torch.isneginf(logp_NK)
    stored_NK = stored_NK.masked_fill(padding_NK, -torch.inf)
    others_N = logits_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
    logits_NC = torch.cat([stored_NK, others_N[:, None]], dim=-1)
    logz_N = logits_NC.logsumexp(-1)
    logp_tail_N = tail_N.log().masked_fill(torch.isneginf(others_N), -torch.inf)  # K = V: what is left is rounding
    logp_NC = torch.cat([logp_NK, logp_tail_N[:, None]], dim=-1)
    return logp_NC, logits_NC - logz_N[:, None], logz_N


def drawn_forward_kl(logits_NV: Tensor, logz_N: Tensor, logp_NC: Tensor, logq_NC: Tensor, rows: _Rows) -> Tensor:
    """Forward KL [N]: stored tokens exactly, the tail by its draws, or by the bucket where a row has none.

    Source: importance sampling restricted to the complement of the stored set; status: unbiased.
    """
    per_outcome_NC = logp_NC.exp() * torch.where(torch.isneginf(logp_NC), 0.0, logp_NC - logq_NC)
    weight_NJ = rows.draw_logweight_NJ.exp()
    logq_NJ = logits_NV.gather(-1, rows.draw_ids_NJ) - logz_N[:, None]
    drawn_N = (weight_NJ * (rows.draw_logp_NJ - logq_NJ)).sum(-1)
    return per_outcome_NC[:, :-1].sum(-1) + torch.where(rows.has_draws_N, drawn_N, per_outcome_NC[:, -1])


@torch.no_grad()
def _metrics(p: ObjectiveParams, logits_NV: Tensor, logz_N: Tensor, rows: _Rows) -> dict[str, Any]:
    """Sums over positions: how far the student has moved from the one that wrote the rollouts (k3), and the tail.

    k3 = exp(l) - 1 - l with l = log q_now(y) - log b(y) is an unbiased, non-negative estimate of KL(b || q_now)
    (Schulman, "Approximating KL divergence", 2020).
    """
    token_logits_N = logits_NV.gather(-1, rows.token_ids_N[:, None])[:, 0]
    known_N = ~torch.isnan(rows.behaviour_logp_N) if p.temperature == 1.0 else torch.zeros_like(logz_N).bool()
    log_ratio_N = torch.where(known_N, token_logits_N - logz_N - rows.behaviour_logp_N, 0.0)
    return {
        "staleness_sum": (log_ratio_N.exp() - 1 - log_ratio_N).sum(),
        "staleness_tokens": known_N.sum(),
        "teacher_tail_sum": rows.tail_N.sum(),
        "token_nll_sum": (logz_N - token_logits_N).sum(),
    }
