"""Segments of another checkout or store, taken into this one.

Guarantee: every byte of a segment is hashed before it is copied; it is published as the store's own writers do, and
`find_known` finds its scores at once. It keeps its bytes and so its id: one that brings its ranks along (those of
work/**/segment do) keeps them, because a segment without that file would be another one.
Cost: .5 s a segment of the default job. A self-contained one holds the ranks as well, some kB more than one that the
store wrote. A segment all of whose scores the store has, in whatever segments, is not copied.
Not taken: hard links (what is copied must survive its source being mended in place), decoding and writing anew.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.runtime.errors import StoreError
from pipeline.store.lookup import find_known
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import copy_files

_SKIPPED = {"quarantine", ".git", ".venv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What became of one segment."""

    path: Path
    outcome: Literal["imported", "known", "damaged"]
    sequences: int
    positions: int
    error: StoreError | None  # why it is damaged


def find_sealed(source: Path) -> list[Path]:
    """Every sealed segment at or under a directory: a checkout, a work directory, a store."""
    found = []
    for directory, below, files in os.walk(source):
        below[:] = [] if "manifest.json" in files else [one for one in below if not _skipped(one)]
        if {"manifest.json", "index.parquet"} <= set(files):
            found.append(Path(directory))
    return sorted(found)


def _skipped(name: str) -> bool:
    return name in _SKIPPED or name.startswith(".tmp-")


def import_segments(root: Path, paths: Sequence[Path]) -> Iterator[ImportResult]:
    """Copy segments into the store at `root`, one by one; a damaged one is told and left where it is."""
    for path in paths:
        try:
            segment = Segment.open(path)
            imported = not _is_known(root, segment)
            if imported:
                segment.verify()
                _publish(root, segment)
        except StoreError as error:
            yield ImportResult(path=path, outcome="damaged", sequences=0, positions=0, error=error)
        else:
            yield ImportResult(
                path=path,
                outcome="imported" if imported else "known",
                sequences=segment.manifest.sequences,
                positions=segment.manifest.positions,
                error=None,
            )


def _is_known(root: Path, segment: Segment) -> bool:
    """The store has every score, under this segment's id or others."""
    columns = [segment.index[name].to_pylist() for name in ("sequence_key", "support_key")]
    keys = set(zip(*columns, strict=True))
    return len(find_known(root, segment.manifest.scorer, sorted(keys))) == len(keys)


def _publish(root: Path, segment: Segment) -> None:
    with temporary_directory(root / "segments") as temporary:
        copy_files(segment, temporary)
        publish_segment(temporary, root / "segments" / segment.manifest.segment_id, segment.manifest)
