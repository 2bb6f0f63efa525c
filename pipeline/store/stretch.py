"""Neighbouring sequences of a segment, decoded together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Scores
from pipeline.store.ragged import sequence_bounds

_JOIN_ROWS = 16  # wanted rows that lie this close are read in one stretch
R = TypeVar("R")  # Scores, or what has been made of them: counts, and arrays that run along them


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch(Generic[R]):
    """The scores of neighbouring sequences, end to end."""

    first: int  # row of the first sequence
    scores: R
    positions_B: NDArray[Any]
    bounds: Mapping[str, list[int]]  # of `ragged.sequence_bounds`

    @classmethod
    def of(cls, first: int, scores: Scores, positions_B: NDArray[Any]) -> "Stretch[Scores]":
        """Scores of sequences with so many positions each."""
        bounds = {group: ends.tolist() for group, ends in sequence_bounds(scores, positions_B).items()}
        return Stretch(first=first, scores=scores, positions_B=positions_B, bounds=bounds)

    def __len__(self) -> int:
        return len(self.positions_B)


Place: TypeAlias = tuple[Stretch[R], int]  # a sequence: the stretch that holds it, and its row


def stretches(rows: Iterable[int]) -> list[range]:
    """Ranges that cover the rows, none with a gap of more than 16 unwanted ones."""
    ordered = np.array(sorted(rows), dtype=np.int64)
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > _JOIN_ROWS) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
