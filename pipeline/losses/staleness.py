"""Staleness: how far the student has moved from the policy that sampled its rollouts, measured at each training step.

At a token y that a student sampled, let l = log q(y) - log b(y), where b is the distribution that y was sampled from
and q is the current student at the same temperature. The training log has these columns:

| column | definition |
|---|---|
| `staleness_kl` | mean of exp(l) - 1 - l (k3), an unbiased and non-negative estimate of KL(b, q) in nats |
| `effective_share` | (sum w)^2 / (n sum w^2) with w = exp(l): effective sample size as a share of the n tokens |
| `clipped_share` | share of tokens with abs(w - 1) > 0.2, the usual clip range of PPO |
| `truncated_share` | share of completions that were cut at the maximum length |

Source of k3: Schulman, "Approximating KL divergence", 2020.

* Only on-policy completions count, because replayed completions are stale by design.
* q is taken at the sampler's temperature: another temperature would look stale from the first step on.
* After greedy or nucleus sampling the first three columns are empty: b is 1, or 0 on most of the vocabulary.
* Cost: one more log-sum-exp over the logits where the sampler's temperature differs from the loss temperature.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_CLIP = 0.2
LARGEST_LOG_RATIO = 40.0  # nats; the square of a larger ratio would overflow float32


def staleness_sums(logq_N: Tensor, behaviour_logp_N: Tensor, compared_N: Tensor) -> dict[str, Tensor]:
    """Sum over tokens what `staleness_columns` needs.

    Args:
        logq_N: the student's log-probs at the sampler's temperature.
        behaviour_logp_N: log-probs under the policy that sampled the tokens.
        compared_N: the tokens that count.

    Returns:
        Sums by name; sums of different chunks and batches can be added.
    """
    log_ratio_N = torch.where(compared_N, logq_N - behaviour_logp_N, 0.0).clamp(max=LARGEST_LOG_RATIO)
    ratio_N = torch.where(compared_N, log_ratio_N.exp(), 0.0)
    return {
        "compared_tokens": compared_N.sum(),
        "k3_sum": (log_ratio_N.expm1() - log_ratio_N).sum(),
        "ratio_sum": ratio_N.sum(),
        "ratio_square_sum": ratio_N.square().sum(),
        "clipped": (compared_N & ((ratio_N - 1).abs() > _CLIP)).sum(),
    }


def staleness_columns(sums: Mapping[str, float]) -> dict[str, Any]:
    """Compute the columns of the training log.

    Args:
        sums: the sums of `staleness_sums`, and over sequences `own` (on-policy completions) and `truncated`.

    Returns:
        The columns of one step; None where the step has nothing to compare.
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
    """Return whether a row of the training log shows more nats per token than the limit; never without a limit."""
    measured = row.get("staleness_kl")
    return limit is not None and measured is not None and measured > limit
