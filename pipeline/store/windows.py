"""Hold windows of a segment in memory: sequences decoded together, so that training can shuffle within a window.

* A window is decoded once per pass over it, and only the windows of the current step are in memory.
* Memory: about 10 bytes per entry and 30 per position of these windows, which is 240 per position at 24 entries and
  tail samples, whatever the size of the segment; half as much again while a window is decoded.

Array suffixes: see `pipeline.core.types`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

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


class ScoreReader(Protocol):
    """A source of scores: a segment, or the one-hot teacher of supervised fine-tuning."""

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Return the scores of the sequences in rows [start, stop), read together."""


class WindowReader(Generic[R]):
    """The windows of one source that are in memory."""

    def __init__(self, source: ScoreReader, window_B: NDArray[np.int64], prepare: Callable[[Scores], R]) -> None:
        """Start with no window in memory.

        Args:
            source: Where windows are read.
            window_B: The window of each sequence.
            prepare: Makes from the scores of a stretch what is held of them.
        """
        self._source, self._window_B, self._prepare = source, window_B, prepare
        self._held: dict[int, dict[int, Stretch[R]]] = {}  # window -> row -> the stretch that holds the row

    def hold(self, rows: Sequence[int]) -> None:
        """Decode the windows of these rows, and drop all other windows."""
        windows = dict.fromkeys(self._window_B[list(rows)].tolist())
        self._held = {window: by_row for window, by_row in self._held.items() if window in windows}
        for window in windows:
            if window not in self._held:
                self._held[window] = self._read(np.flatnonzero(self._window_B == window).tolist())

    def place(self, row: int) -> Place[R]:
        """Return the place of a row whose window is held."""
        return self._held[int(self._window_B[row])][row], row

    def _read(self, rows: list[int]) -> dict[int, Stretch[R]]:
        stretch_of_row: dict[int, Stretch[R]] = {}
        for span in stretches(rows):
            for read in self._source.read_stretches(span.start, span.stop):
                scores = self._prepare(read.scores)
                stretch = Stretch(first=read.first, scores=scores, positions_B=read.positions_B, bounds=read.bounds)
                stretch_of_row |= dict.fromkeys(range(read.first, read.first + len(read)), stretch)
        return stretch_of_row
