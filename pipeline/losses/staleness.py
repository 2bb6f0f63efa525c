"""How far the student has moved from the one that wrote its rollouts: measures of a training step, from the log.

With l = log q_now(y) - log b(y) at a token y that the student wrote, b being the distribution it was drawn from and
q_now the student at the same temperature:

* `staleness_kl`: mean of exp(l) - 1 - l (k3), an unbiased, never negative estimate of KL(b || q_now), in nats
  (Schulman, "Approximating KL divergence", 2020);
* `effective_share`: (sum w)^2 / (n sum w^2) with w = exp(l), the effective sample size of n tokens as a share of n;
* `clipped_share`: tokens with |w - 1| > .2, which PPO's usual clip would leave without a gradient;
* `truncated_share`: completions cut before they ended.

Only completions of the round at hand count: those replayed or lent are stale by design. A comparison at another
temperature than b's would look stale from the first step on, so the sampler's is used; greedy and nucleus sampling have
no such comparison (b is 1, or zero on most of the vocabulary), and then the first three are empty.
Cost: none where the sampler's temperature is the loss's, else one more log-sum-exp over the logits.
Not taken: rescaling b to temperature 1, which needs all of the old student's logits.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_CLIP = 0.2


def staleness_sums(logq_N: Tensor, behaviour_logp_N: Tensor, known_N: Tensor) -> dict[str, Tensor]:
    """Sums over the tokens in `known_N`, from which `measures` are made."""
    log_ratio_N = torch.where(known_N, logq_N - behaviour_logp_N, 0.0)
    ratio_N = torch.where(known_N, log_ratio_N.exp(), 0.0)
    return {
        "compared_tokens": known_N.sum(),
        "k3_sum": (log_ratio_N.expm1() - log_ratio_N).sum(),
        "ratio_sum": ratio_N.sum(),
        "ratio_square_sum": ratio_N.square().sum(),
        "clipped": (known_N & ((ratio_N - 1).abs() > _CLIP)).sum(),
    }


def measures(sums: Mapping[str, float]) -> dict[str, Any]:
    """Columns of the training log; None for what this step cannot tell.

    `sums` has those of `staleness_sums`, and over sequences `own` (completions of the round at hand) and `truncated`.
    """
    tokens, own = sums["compared_tokens"], sums["own"]
    return {
        "compared_tokens": int(tokens),
        "staleness_kl": sums["k3_sum"] / tokens if tokens else None,
        "effective_share": sums["ratio_sum"] ** 2 / (tokens * sums["ratio_square_sum"]) if tokens else None,
        "clipped_share": sums["clipped"] / tokens if tokens else None,
        "truncated_share": sums["truncated"] / own if own else None,
    }


def is_stale(row: Mapping[str, Any], limit: float | None) -> bool:
    """Whether a row of the training log shows more nats a token than the limit; never without a limit."""
    measured = row.get("staleness_kl")
    return limit is not None and measured is not None and measured > limit
