"""Frequency ranks: the order of token ids in which the codec's gaps are small."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_by_count(counts_V: NDArray[Any]) -> NDArray[np.int32]:
    """Token ids [V], the most frequent first, equally frequent ones by id."""
    return np.argsort(-counts_V, kind="stable").astype(np.int32)
