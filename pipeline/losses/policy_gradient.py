"""The reward's term of the objective: a policy gradient with PPO's clipped ratio, token by token.

Maximised: min(r A, clip(r, 1 - epsilon, 1 + epsilon) A), r = q(y) / b(y), where b is the student that wrote y and A the
advantage of y's completion, a number that no gradient flows into (Schulman et al., "Proximal Policy Optimization
Algorithms", 2017, equation 7; one advantage for all tokens: Shao et al., "DeepSeekMath", 2024).

Status: summed over a completion's tokens the gradient is the policy gradient of the reward, unbiased, while q = b,
which must be the untruncated distribution at temperature 1. Later each token is reweighted by its own ratio and not by
its prefix's, and clipped tokens are left alone: both are biases, small while the rollouts are fresh.

The sum is divided by the number of tokens of the whole step, as the divergence is: TRL's loss_type "dapo". So a token
of a long completion weighs as much as one of a short one, and the direction is that of the reward's own gradient, in
size 1 / mean length of it. Not taken: a mean over each completion ("grpo"), which lets long bad completions off lightly
and so makes them longer; a constant denominator ("dr_grpo"), another scale than the divergence's.
"""

import torch
from torch import Tensor


def policy_gradient(
    logq_N: Tensor, behaviour_logp_N: Tensor, advantage_N: Tensor, *, epsilon: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gain [N], and sums over positions: tokens that are clipped, and those that could be.

    Tokens that no student wrote have a behaviour of NaN and an advantage of 0, and gain nothing.
    """
    log_ratio_N = logq_N - behaviour_logp_N.nan_to_num()
    ratio_N = torch.where(torch.isnan(behaviour_logp_N), 0.0, log_ratio_N).exp()
    free_N, clipped_N = ratio_N * advantage_N, ratio_N.clamp(1 - epsilon, 1 + epsilon) * advantage_N
    counts = {"clipped_tokens": (clipped_N < free_N).sum(), "clippable_tokens": (advantage_N != 0).sum()}
    return torch.minimum(free_N, clipped_N), counts
