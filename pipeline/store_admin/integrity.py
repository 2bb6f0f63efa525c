"""Looking after a store: what it holds, whether it is whole, and what nobody needs.

Guarantee: only `collect` deletes a segment; what `quarantine` takes away lies beside the others, in place of an older
copy of the same id. A segment that goes costs the teacher's time and nothing else: the next score stage that misses it
scores its sequences again.
Cost: `summarise_segment` reads manifests only, `verify_segments` every byte.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import DataError, StoreError
from pipeline.runtime.files import visible_files
from pipeline.store.manifest import read_manifest
from pipeline.store.segment_reader import Segment
from schemas.segment import INDEXES


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSummary:
    """One segment as its manifest tells it."""

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
    """A segment that cannot be read as it was written."""

    segment: str
    error: StoreError
    rollouts: list[str] | None  # what has to be scored again, None where the index is gone too


def segments(root: Path) -> list[Path]:
    """The store's segments, without those of unfinished writes."""
    return sorted(one for one in (root / "segments").glob("*") if one.is_dir() and not one.name.startswith("."))


def find_segment(root: Path, name: str) -> Path:
    """The segment whose id begins with `name`; a StoreError unless there is exactly one."""
    found = [one for one in segments(root) if one.name.startswith(name)]
    if len(found) != 1:
        raise StoreError(
            root / "segments",
            expected=f"one segment whose id begins with {name}",
            got=f"{len(found)}",
            remedy="`stillroom store ls` lists them",
        )
    return found[0]


def summarise_segment(path: Path) -> SegmentSummary:
    """What the manifest says; a StoreError where there is none."""
    manifest = read_manifest(path)
    size = sum(one.size_bytes for one in manifest.files.values())
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
    """The facts of every segment whose manifest can be read, and what is wrong with the others."""
    found: list[SegmentSummary] = []
    damaged: list[StoreError] = []
    for path in paths:
        try:
            found.append(summarise_segment(path))
        except StoreError as error:
            damaged.append(error)
    return found, damaged


def readable(root: Path) -> list[Path]:
    """The segments whose manifest can be read."""
    return [root / "segments" / one.segment for one in list_segments(segments(root))[0]]


def verify_segments(paths: Sequence[Path]) -> Iterator[Damage | None]:
    """Read and hash every file of each segment: its damage, or None."""
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
    return [str(one) for one in column.to_pylist()]


def quarantine(root: Path, damage: Damage) -> Path:
    """Take a segment out of the store, to <store>/quarantine; returns where it lies."""
    place = root / "quarantine" / damage.segment
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)  # of an earlier repair
    return (root / "segments" / damage.segment).rename(place)


def collectable(root: Path, works: Sequence[Path]) -> list[Path]:
    """Segments that hold no score which a checkout, by its work directory, has in use.

    A DataError for a directory without any segment: taken for a checkout that needs nothing, it would cost the store.
    """
    for work in works:
        if not any(work.rglob("index.parquet")):
            raise DataError(
                work,
                expected="the work directory of a checkout that has scores",
                got="no segment",
                remedy="name it with --work, or run `make repro` there first",
            )
    names = unneeded(root, works)
    return [one for one in segments(root) if one.name in names]


def collect(paths: Sequence[Path]) -> None:
    """Delete segments."""
    for path in paths:
        shutil.rmtree(path)


_UNNEEDED = """
    SELECT filename FROM read_parquet($stored, filename = true) GROUP BY filename
    HAVING NOT bool_or(score_key IN (SELECT score_key FROM read_parquet($needed)))
"""


def unneeded(store_root: Path, works: Sequence[Path]) -> set[str]:
    """Names of the store's segments that hold no score which is in a segment under one of the `works`."""
    stored = visible_files(store_root, INDEXES)
    needed = [file for work in works for file in visible_files(work, "**/index.parquet")]
    if not stored or not needed:
        return {Path(file).parent.name for file in stored}
    with duckdb.connect() as connection:
        try:
            rows = connection.execute(_UNNEEDED, {"stored": stored, "needed": needed}).fetchall()
        except duckdb.Error as error:
            got = str(error).splitlines()[0]
            raise StoreError(
                store_root, expected="readable indexes", got=got, remedy="run `stillroom store repair`"
            ) from error
    return {Path(file).parent.name for (file,) in rows}
