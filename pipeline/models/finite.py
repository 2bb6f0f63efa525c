"""Notice logits that are no distribution, and find the cause.

A softmax spreads NaN, plus infinity or minus infinity alone over the whole row of logits, so one column shows them.
Attention spreads NaN to earlier tokens of the same pass, because a weight of 0 times NaN is NaN. So the first token
that a model cannot predict is looked for with passes that read nothing after it.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.forward import plain_logits
from pipeline.runtime.errors import ModelError

_SHOWN = 3  # names of weights in a message


class NoDistributionError(ArithmeticError):
    """Logits that contain NaN or plus infinity, or nothing but minus infinity."""

    def __init__(self, row: int) -> None:
        """Keep the first row of such logits."""
        super().__init__(f"row {row}")
        self.row = row


def check_distributions(softmax_NV: Tensor) -> None:
    """Check the softmax or log-softmax of N rows of logits, at the cost of reading one column.

    Raises:
        NoDistributionError: The logits of a row have none.
    """
    bad_N = softmax_NV[:, 0].isnan()
    if bad_N.any():
        raise NoDistributionError(int(bad_N.nonzero()[0, 0]))


def first_unpredicted(
    model: torch.nn.Module,
    prompt: list[int],
    completion: list[int],
    positions: Sequence[int],
    *,
    first: int,
    vocab: int,
) -> int:
    """Return which of some positions of a completion is the first whose token has no distribution.

    Args:
        model: The model.
        prompt: The token ids before the completion.
        completion: The token ids of the completion.
        positions: Positions in the completion, ascending.
        first: The index of the first position that had no distribution in a pass over the whole completion.
        vocab: The size of the tokenizer's vocabulary; further columns of the logits are ignored.

    Returns:
        An index of `positions`; `first` if each has a distribution in a pass that ends there.
    """

    def is_unpredicted(position: int) -> bool:
        logits_V = plain_logits(model, prompt, completion[:position])[-1, :vocab].float()
        return bool(logits_V.softmax(-1)[0].isnan())

    index = bisect_left(positions, True, lo=first, key=is_unpredicted)
    return index if index < len(positions) else first


def not_finite(model: torch.nn.Module, where: str, at: str, dtype: torch.dtype) -> ModelError:
    """Return the error for logits that are no distribution, with its likely cause.

    Args:
        model: The model; all its weights are read.
        where: What was computed.
        at: The token that the logits should predict.
        dtype: The number format of the model's body.
    """
    broken = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    expected, got = "finite logits", f"NaN or infinity at {at}"
    if broken:
        names = ", ".join(broken[:_SHOWN])
        remedy = "use another revision of this model, or train it anew at a lower learning rate"
        return ModelError(where, expected=expected, got=f"{got}, and in {len(broken)} weights: {names}", remedy=remedy)
    remedy = "set precision: float32 in the section of this stage" if dtype != torch.float32 else "check the weights"
    got += f", while all weights are finite, so numbers overflow {str(dtype).removeprefix('torch.')}"
    return ModelError(where, expected=expected, got=got, remedy=remedy)
