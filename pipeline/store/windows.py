"""Windows of a segment: sequences decoded together, so that training can shuffle without reading one by one.

Guarantee: a window is decoded once for each pass over it, and no window is held that the current step does not need.
Cost: about 10 bytes for each entry and 30 for each position of the windows held, 240 a position at 24 entries and
draws, whatever the size of the segment; half as much again while one is read.

Array suffixes: see `pipeline.core.types`; B sequences.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Scores
from pipeline.store.stretch import Place, R, Stretch, stretches


class ScoreReader(Protocol):
    """What windows are read from: a segment."""

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Scores of the sequences in rows [start, stop), read together."""


class WindowReader(Generic[R]):
    """The windows of one source that are in memory."""

    def __init__(self, source: ScoreReader, window_B: NDArray[np.int64], prepare: Callable[[Scores], R]) -> None:
        """`window_B` says which window each of the source's sequences belongs to; `prepare` what is kept of scores."""
        self._source, self._window_B, self._prepare = source, window_B, prepare
        self._held: dict[int, dict[int, Stretch[R]]] = {}  # window -> row -> where it lies

    def hold(self, rows: Sequence[int]) -> None:
        """Decode the windows of these rows, and forget all others."""
        wanted = dict.fromkeys(self._window_B[list(rows)].tolist())
        self._held = {window: rows for window, rows in self._held.items() if window in wanted}
        for window in wanted:
            if window not in self._held:
                self._held[window] = self._read(np.flatnonzero(self._window_B == window).tolist())

    def place(self, row: int) -> Place[R]:
        """Where a row of a held window lies."""
        return self._held[int(self._window_B[row])][row], row

    def _read(self, rows: list[int]) -> dict[int, Stretch[R]]:
        read = [one for span in stretches(rows) for one in self._source.read_stretches(span.start, span.stop)]
        return {row: kept for kept in map(self._kept, read) for row in range(kept.first, kept.first + len(kept))}

    def _kept(self, one: Stretch[Scores]) -> Stretch[R]:
        scores = self._prepare(one.scores)
        return Stretch(first=one.first, scores=scores, positions_B=one.positions_B, bounds=one.bounds)
