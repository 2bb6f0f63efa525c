"""Windows of a segment: sequences decoded together, so that training can shuffle without reading one by one.

Guarantee: a window is decoded once for each pass over it, and no window is held that the current step does not need.
Cost: about 200 bytes a position of the windows held, whatever the size of the segment. Laying sequences end to end
takes .11-.17 microseconds a position at 120 positions a sequence: one slice a field and sequence, then copying.
Not taken: gathering entries by computed indices in place of slices (an index of 8 bytes for every entry of 8).

Array suffixes: see `pipeline.records`; B sequences.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.ragged import GROUP_OF_FIELD, sequence_bounds
from pipeline.records import Scores

_JOIN_ROWS = 16  # wanted rows that lie this close are read in one stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The scores of neighbouring sequences, end to end."""

    first: int  # row of the first sequence
    scores: Scores
    positions_B: NDArray[Any]
    bounds: Mapping[str, list[int]]  # of `ragged.sequence_bounds`

    @classmethod
    def of(cls, first: int, scores: Scores, positions_B: NDArray[Any]) -> "Stretch":
        """Scores of sequences with so many positions each."""
        bounds = {group: ends.tolist() for group, ends in sequence_bounds(scores, positions_B).items()}
        return cls(first=first, scores=scores, positions_B=positions_B, bounds=bounds)

    def __len__(self) -> int:
        return len(self.positions_B)

    def cut(self, row: int) -> dict[str, slice]:
        """What belongs to one sequence, along each group."""
        place = row - self.first
        return {group: slice(ends[place], ends[place + 1]) for group, ends in self.bounds.items()}


Place: TypeAlias = tuple[Stretch, int]  # a sequence: the stretch that holds it, and its row


def gather(places: Sequence[Place]) -> Scores:
    """The scores of at least one sequence of any stretches, end to end in the given order."""
    cuts = [(stretch.scores, stretch.cut(row)) for stretch, row in places]
    return Scores(
        **{
            name: np.concatenate([getattr(scores, name)[cut[group]] for scores, cut in cuts])
            for name, group in GROUP_OF_FIELD.items()
        }
    )


def stretches(rows: Iterable[int]) -> list[range]:
    """Ranges that cover the rows, none with a gap of more than 16 unwanted ones."""
    ordered = np.array(sorted(rows), dtype=np.int64)
    parts = np.split(ordered, np.flatnonzero(np.diff(ordered) > _JOIN_ROWS) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


class Source(Protocol):
    """What windows are read from: a segment."""

    def read_stretch(self, start: int, stop: int) -> Stretch:
        """Scores of the sequences in rows [start, stop), decoded together."""


class WindowReader:
    """The windows of one source that are in memory."""

    def __init__(self, source: Source, window_B: NDArray[np.int64]) -> None:
        """`window_B` says which window each of the source's sequences belongs to."""
        self.window_B = window_B
        self._source = source
        self._held: dict[int, dict[int, Stretch]] = {}  # window -> row -> where it lies

    def hold(self, rows: Sequence[int]) -> None:
        """Decode the windows of these rows, and forget all others."""
        wanted = dict.fromkeys(self.window_B[list(rows)].tolist())
        self._held = {window: rows for window, rows in self._held.items() if window in wanted}
        for window in wanted:
            if window not in self._held:
                self._held[window] = self._read(np.flatnonzero(self.window_B == window).tolist())

    def place(self, row: int) -> Place:
        """Where a row of a held window lies."""
        return self._held[int(self.window_B[row])][row], row

    def _read(self, rows: list[int]) -> dict[int, Stretch]:
        read = [self._source.read_stretch(span.start, span.stop) for span in stretches(rows)]
        return {row: one for one in read for row in range(one.first, one.first + len(one))}
