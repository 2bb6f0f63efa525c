"""Stretches: neighbouring sequences of a segment that are decoded together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Scores
from pipeline.store.ragged import sequence_bounds

_JOIN_ROWS = 16  # requested rows with a gap of at most so many rows are read together
R = TypeVar("R")  # Scores, or what training derives from them (TemperedRows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch(Generic[R]):
    """The scores of neighbouring sequences, laid end to end."""

    first: int  # row of the first sequence
    scores: R
    positions_B: NDArray[Any]
    bounds: Mapping[str, list[int]]  # as `ragged.sequence_bounds` returns them

    @classmethod
    def of(cls, first: int, scores: Scores, positions_B: NDArray[Any]) -> "Stretch[Scores]":
        """Return a stretch of sequences with `positions_B` positions each."""
        bounds = {axis: ends.tolist() for axis, ends in sequence_bounds(scores, positions_B).items()}
        return Stretch(first=first, scores=scores, positions_B=positions_B, bounds=bounds)

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.positions_B)


Place: TypeAlias = tuple[Stretch[R], int]  # of a sequence: the stretch that holds it, and its row


def stretches(rows: Iterable[int]) -> list[range]:
    """Return ranges that cover the rows; a range contains no gap of more than 16 rows that were not requested."""
    ordered = np.array(sorted(rows), dtype=np.int64)
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > _JOIN_ROWS) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
