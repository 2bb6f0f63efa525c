"""Maintain a store: list its segments, verify and quarantine them, and collect segments that no checkout needs.

* Only `collect` deletes a segment. `quarantine` moves a segment to <store>/quarantine, where it replaces an
  older copy of the same id.
* A missing segment costs the teacher's time and nothing else: the next stage that needs its scores computes them.
* `summarise_segment` reads manifests only; `verify_segments` reads every byte.
"""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import DataError, StoreError
from pipeline.runtime.files import literal_patterns, visible_files
from pipeline.store.manifest import read_manifest
from pipeline.store.segment_reader import Segment
from schemas.segment import INDEXES


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """One segment as its manifest describes it."""

    segment: str
    written: str  # UTC, ISO 8601
    teacher: str
    scorer: str
    codec: str
    sequences: int
    positions: int
    bytes: int  # all files but the manifest
    bytes_per_position: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A segment that differs from what was written."""

    segment: str
    error: StoreError
    rollouts: list[str] | None  # ids of the rollouts to score again, None if the index is damaged, too


def segments(root: Path) -> list[Path]:
    """Return the store's segments, without unfinished writes."""
    return sorted(path for path in (root / "segments").glob("*") if path.is_dir() and not path.name.startswith("."))


def find_segment(root: Path, name: str) -> Path:
    """Return the segment whose id begins with `name`.

    Raises:
        StoreError: There is none, or more than one.
    """
    matching = [path for path in segments(root) if path.name.startswith(name)]
    if len(matching) != 1:
        expected, remedy = f"one segment whose id begins with {name}", "`stillroom store ls` lists them"
        raise StoreError(root / "segments", expected=expected, got=f"{len(matching)}", remedy=remedy)
    return matching[0]


def summarise_segment(path: Path) -> SegmentSummary:
    """Return the summary of the segment at `path`.

    Raises:
        StoreError: Its manifest is missing or damaged.
    """
    manifest = read_manifest(path)
    size = sum(entry.size_bytes for entry in manifest.files.values())
    written = datetime.fromtimestamp((path / "manifest.json").stat().st_mtime, UTC)
    return SegmentSummary(
        segment=path.name,
        written=written.isoformat(timespec="seconds"),
        teacher=manifest.teacher,
        scorer=manifest.scorer,
        codec=manifest.codec,
        sequences=manifest.sequences,
        positions=manifest.positions,
        bytes=size,
        bytes_per_position=size / manifest.positions if manifest.positions else 0.0,
    )


def list_segments(paths: Sequence[Path]) -> tuple[list[SegmentSummary], list[StoreError]]:
    """Return the summary of every segment whose manifest can be read, and the errors of all others."""
    summaries: list[SegmentSummary] = []
    errors: list[StoreError] = []
    for path in paths:
        try:
            summaries.append(summarise_segment(path))
        except StoreError as error:
            errors.append(error)
    return summaries, errors


def readable(root: Path) -> list[Path]:
    """Return the segments whose manifest can be read."""
    return [root / "segments" / summary.segment for summary in list_segments(segments(root))[0]]


def verify_segments(paths: Sequence[Path]) -> Iterator[Damage | None]:
    """Read and hash every file of each segment, and yield its damage or None."""
    for path in paths:
        try:
            Segment.open(path).verify()
        except StoreError as error:
            yield Damage(segment=path.name, error=error, rollouts=_rollouts(path))
        else:
            yield None


def _rollouts(path: Path) -> list[str] | None:
    try:
        column = pq.read_table(path / "index.parquet", columns=["rollout_id"])["rollout_id"]
    except (OSError, pa.ArrowException):
        return None
    return [str(rollout_id) for rollout_id in column.to_pylist()]


def quarantine(root: Path, damage: Damage) -> Path:
    """Move a segment to <store>/quarantine, and return its new path."""
    target = root / "quarantine" / damage.segment
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # an earlier repair may have moved a segment of the same id
    return (root / "segments" / damage.segment).rename(target)


_UNNEEDED = """
    SELECT filename FROM read_parquet($stored, filename = true, hive_partitioning = false) GROUP BY filename
    HAVING NOT bool_or(score_key IN (SELECT score_key FROM read_parquet($needed, hive_partitioning = false)))
"""


def collectable(root: Path, works: Sequence[Path]) -> list[Path]:
    """Return the segments without any score that a checkout uses.

    Args:
        root: The directory of the store.
        works: The work directories of all checkouts, at least one.

    Raises:
        DataError: A work directory has no segment. As a checkout that uses nothing, it would empty the store.
        StoreError: An index is damaged.
    """
    indexes = {work: visible_files(work, "**/index.parquet") for work in works}
    for work, files in indexes.items():
        if not files:
            expected = "the work directory of a checkout that has scores"
            remedy = "name it with --work, or run `make repro` there first"
            raise DataError(work, expected=expected, got="no segment", remedy=remedy)
    stored, needed = visible_files(root, INDEXES), list(itertools.chain(*indexes.values()))
    if not stored:
        return []
    patterns = {"stored": literal_patterns(stored), "needed": literal_patterns(needed)}
    try:
        with duckdb.connect() as connection:
            rows = connection.execute(_UNNEEDED, patterns).fetchall()
    except duckdb.Error as error:
        got, remedy = str(error).splitlines()[0], "run `stillroom store repair`"
        raise StoreError(root, expected="readable indexes", got=got, remedy=remedy) from error
    return sorted(Path(file).parent for (file,) in rows)


def collect(paths: Sequence[Path]) -> None:
    """Delete segments."""
    for path in paths:
        shutil.rmtree(path)
