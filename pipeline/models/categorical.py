"""Draws from categorical distributions on the device."""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 256  # tokens that one step of the inverse CDF takes together
_BELOW_ONE = 1 - 2.0**-52  # times a sum it stays below the sum: no draw falls behind the last token of any mass


def expectation(p_TV: Tensor, value_TV: Tensor) -> Tensor:
    """Sum of p times value, [T]."""
    sum_T: Tensor = torch.linalg.vecdot(p_TV, value_TV)
    if sum_T.isnan().any():  # 0 * -inf, for tokens that cannot be
        sum_T = (p_TV * value_TV).nan_to_num(0.0).sum(-1)
    return sum_T


def inverse_cdf(mass_TV: Tensor, rows_R: Tensor, uniform_R: Tensor) -> Tensor:
    """A token for each number in [0, 1), drawn in proportion to its row's masses, which are not all 0.

    First a block of tokens, then a token in it.
    """
    missing = -mass_TV.shape[-1] % _BLOCK
    padded_TV = functional.pad(mass_TV, (0, missing)) if missing else mass_TV  # padding by nothing copies
    blocks = padded_TV.reshape(len(mass_TV), -1, _BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)[rows_R]
    marks_R1 = uniform_R[:, None].clamp(max=_BELOW_ONE) * ends[:, -1:]
    block_R1 = torch.searchsorted(ends, marks_R1, right=True).clamp(max=ends.shape[-1] - 1)
    begin_R1 = functional.pad(ends, (1, 0)).gather(-1, block_R1)
    share_R1 = ((marks_R1 - begin_R1) / (ends.gather(-1, block_R1) - begin_R1)).clamp(max=_BELOW_ONE)
    within = blocks[rows_R, block_R1[:, 0]].double().cumsum(-1)
    token_R1 = torch.searchsorted(within, share_R1 * within[:, -1:], right=True).clamp(max=_BLOCK - 1)
    tokens_R: Tensor = (block_R1 * _BLOCK + token_R1)[:, 0]
    return tokens_R
