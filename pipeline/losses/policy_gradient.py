"""The reward's term of the objective: a policy gradient with PPO's clipped probability ratio, token by token.

The student maximises min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) at every token y (Schulman et al., "Proximal Policy
Optimization Algorithms", 2017, equation 7). r = q(y) / b(y) is the ratio of the student's probability to that of the
student that sampled y, at temperature 1. A is the advantage of the completion, the same for all of its tokens (Shao et
al., "DeepSeekMath", 2024, section 4.1.1); no gradient flows into A.

* Bias: none while q = b, where the gradient summed over a completion is the policy gradient of the reward. Later there
  are two biases, small while the rollouts are on-policy: each token is weighted by its own ratio instead of the ratio
  of its prefix, and clipped tokens get no gradient.
* Scale: the sum is divided by the number of tokens of the whole step, as the divergence is (TRL calls this loss_type
  "dapo"). A token of a long completion therefore weighs as much as a token of a short one.
"""

import torch
from torch import Tensor

from pipeline.losses.staleness import LARGEST_LOG_RATIO


def policy_gradient(
    logq_N: Tensor, behaviour_logp_N: Tensor, advantage_N: Tensor, *, epsilon: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the clipped gain of each token.

    Args:
        logq_N: the student's log-probs of the tokens.
        behaviour_logp_N: log-probs under the student that sampled the tokens; NaN where no student did.
        advantage_N: the advantages, which must be 0 where `behaviour_logp_N` is NaN.
        epsilon: the clip range of the ratio.

    Returns:
        The gain [N], and two sums over positions: clipped tokens, and tokens with an advantage.
    """
    log_ratio_N = torch.where(torch.isnan(behaviour_logp_N), 0.0, logq_N - behaviour_logp_N)
    ratio_N = log_ratio_N.clamp(max=LARGEST_LOG_RATIO).exp()
    free_N, clipped_N = ratio_N * advantage_N, ratio_N.clamp(1 - epsilon, 1 + epsilon) * advantage_N
    counts = {"clipped_tokens": (clipped_N < free_N).sum(), "clippable_tokens": (advantage_N != 0).sum()}
    # The minimum makes clipping one-sided: a token that moved against its advantage keeps its gradient.
    return torch.minimum(free_N, clipped_N), counts
