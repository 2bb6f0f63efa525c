"""Sample from categorical distributions on the device, and take expectations over them."""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 256  # tokens per block of the two-level inverse CDF
_BELOW_ONE = 1 - 2.0**-52  # a sum times this factor stays below the sum, so no sample falls behind the last token


def expectation(p_TV: Tensor, value_TV: Tensor) -> Tensor:
    """Return the sum of p times value over the vocabulary, [T]; a token with p = 0 adds 0, whatever its value."""
    sum_T: Tensor = torch.linalg.vecdot(p_TV, value_TV)
    if sum_T.isnan().any():  # 0 * -inf at impossible tokens
        sum_T = (p_TV * value_TV).nan_to_num(0.0).sum(-1)
    return sum_T


def inverse_cdf(mass_TV: Tensor, rows_R: Tensor, uniform_R: Tensor) -> Tensor:
    """Return one sampled token for each of R uniform numbers, [R].

    Args:
        mass_TV: Masses of the tokens, which need not sum to 1.
        rows_R: The row of the masses from which each token is sampled; the row must have a positive sum.
        uniform_R: Numbers in [0, 1) that choose the tokens.
    """
    # The cumulative sum over blocks chooses a block, and the cumulative sum within the block chooses the token.
    missing = -mass_TV.shape[-1] % _BLOCK
    padded_TV = functional.pad(mass_TV, (0, missing)) if missing else mass_TV  # padding by nothing would copy
    blocks = padded_TV.reshape(len(mass_TV), -1, _BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)[rows_R]
    target_R1 = uniform_R[:, None].clamp(max=_BELOW_ONE) * ends[:, -1:]
    block_R1 = torch.searchsorted(ends, target_R1, right=True).clamp(max=ends.shape[-1] - 1)
    begin_R1 = functional.pad(ends, (1, 0)).gather(-1, block_R1)
    share_R1 = ((target_R1 - begin_R1) / (ends.gather(-1, block_R1) - begin_R1)).clamp(max=_BELOW_ONE)
    within = blocks[rows_R, block_R1[:, 0]].double().cumsum(-1)
    token_R1 = torch.searchsorted(within, share_R1 * within[:, -1:], right=True).clamp(max=_BLOCK - 1)
    tokens_R: Tensor = (block_R1 * _BLOCK + token_R1)[:, 0]
    return tokens_R
