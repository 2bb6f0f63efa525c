"""The store of segments that checkouts share: append-only, content-addressed, any number of writers and readers.

`<root>/segments/<segment id>/` and `<root>/ranks/<hash>.parquet`. It is neither dependency nor output of any stage:
what it holds changes what a run costs and not what it computes.
"""

import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from pipeline.core.types import Scores
from pipeline.runtime.process import alive
from pipeline.store.keys import Key
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.records import ScoredSequence
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_files
from pipeline.store.stretch import stretches
from schemas.manifest import SegmentHeader

_ORPHAN_AGE_S = 24 * 3600.0


class Location(NamedTuple):
    """Where the store holds one sequence's scores; a tuple, because a plan makes a hundred thousand of them."""

    key: Key
    segment: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """`<root>/segments/<segment id>/` and `<root>/ranks/`; any number of writers and readers at once."""

    root: Path

    def publish(
        self, sequences: Sequence[ScoredSequence], header: SegmentHeader, token_of_rank: NDArray[Any]
    ) -> Path | None:
        """Add one segment, named after its content; None when there are no sequences."""
        if not sequences:
            return None
        with temporary_directory(self.root / "segments") as temporary:
            manifest = write_files(temporary, sequences, header, token_of_rank, in_store=True)
            path = self.root / "segments" / manifest.segment_id
            publish_segment(temporary, path, manifest)
        return path

    def read(self, plan: Iterable[Location]) -> dict[Key, Scores]:
        """Scores by key. A segment that has vanished since the plan was made is left out."""
        wanted: dict[str, list[Location]] = defaultdict(list)
        for location in plan:
            wanted[location.segment].append(location)
        found: dict[Key, Scores] = {}
        for name, locations in sorted(wanted.items()):
            path = self.root / "segments" / name
            if path.is_dir():
                found |= _read_locations(Segment.open(path), locations)
        return found

    def sweep(self) -> list[Path]:
        """Remove what dead writers of this machine left, and any `.tmp-*` untouched for a day; returns them.

        A live writer seen as dead (same host name, other process namespace) fails to rename and publishes nothing.
        """
        orphans = [path for path in sorted(self.root.glob("*/.tmp-*")) if _is_orphan(path)]
        for path in orphans:
            shutil.rmtree(path, ignore_errors=True)
        return orphans


def _read_locations(segment: Segment, locations: list[Location]) -> dict[Key, Scores]:
    """Read rows that lie close together in one window."""
    by_row = {one.row: one.key for one in locations}
    found: dict[Key, Scores] = {}
    for span in stretches(by_row):
        scores = segment.read(span.start, span.stop)
        found |= {by_row[row]: scores[row - span.start] for row in span if row in by_row}
    return found


def _is_orphan(path: Path) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    owner, _, host = path.name.removeprefix(".tmp-").split("-", 2)
    return age_s > _ORPHAN_AGE_S or (host == socket.gethostname() and not alive(int(owner)))
