"""Rank token ids by frequency: in this order the gaps that the codecs store are small."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rank_by_count(counts_V: NDArray[Any]) -> NDArray[np.int32]:
    """Return the token ids [V], the most frequent first, equally frequent ones by id."""
    return np.argsort(-counts_V, kind="stable").astype(np.int32)
