"""The store of segments that checkouts share: append-only, content-addressed, for any number of writers and readers.

Its files are `<root>/segments/<segment id>/` and `<root>/ranks/<hash>.parquet`. The store is neither a dependency nor
an output of a stage, because its contents affect the running time of a job and never its results.
"""

import itertools
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.core.types import ScoredSequence, Scores
from pipeline.runtime.process import alive
from pipeline.store.keys import Key
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_files
from pipeline.store.windows import stretches
from schemas.manifest import SegmentHeader

_ORPHAN_AGE_S = 24 * 3600.0


class Location(NamedTuple):
    """Where the store holds one sequence's scores; a tuple, because a look-up may create a hundred thousand of them."""

    key: Key
    segment: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The store in the directory `root`."""

    root: Path

    def publish(
        self, sequences: Sequence[ScoredSequence], header: SegmentHeader, token_of_rank: NDArray[Any]
    ) -> Path | None:
        """Add one segment, whose name is the digest of its content.

        Args:
            sequences: The rollouts with their scores.
            header: Scorer and codec.
            token_of_rank: The token id of each frequency rank [V].

        Returns:
            The directory of the segment; None if there are no sequences.
        """
        if not sequences:
            return None
        with temporary_directory(self.root / "segments") as temporary:
            manifest = write_files(temporary, sequences, header, token_of_rank, in_store=True)
            path = self.root / "segments" / manifest.segment_id
            publish_segment(temporary, path, manifest)
        return path

    def read(self, plan: Iterable[Location]) -> dict[Key, Scores]:
        """Return scores by key, without those of segments that were deleted since the look-up.

        Raises:
            StoreError: A segment is damaged.
        """
        scores: dict[Key, Scores] = {}
        of_segment = attrgetter("segment")
        for name, locations in itertools.groupby(sorted(plan, key=of_segment), key=of_segment):
            path = self.root / "segments" / name
            if path.is_dir():
                scores |= _read_locations(Segment.open(path), locations)
        return scores

    def sweep(self) -> list[Path]:
        """Remove the `.tmp-*` directories of dead writers on this machine, and all others that are a day old.

        A live writer may look dead if it has the same host name and another process namespace. Its rename then fails,
        and it publishes nothing.

        Returns:
            The removed directories.
        """
        orphans = [path for path in sorted(self.root.glob("*/.tmp-*")) if _is_orphan(path)]
        for path in orphans:
            shutil.rmtree(path, ignore_errors=True)
        return orphans


def _read_locations(segment: Segment, locations: Iterable[Location]) -> dict[Key, Scores]:
    """Return scores by key; rows that are close together are read together."""
    key_of_row = {location.row: location.key for location in locations}
    scores: dict[Key, Scores] = {}
    for span in stretches(key_of_row):
        rows = zip(span, segment.read(span.start, span.stop), strict=True)
        scores |= {key_of_row[row]: row_scores for row, row_scores in rows if row in key_of_row}
    return scores


def _is_orphan(path: Path) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    owner, _, host = path.name.removeprefix(".tmp-").split("-", 2)
    return age_s > _ORPHAN_AGE_S or (host == socket.gethostname() and not alive(int(owner)))
