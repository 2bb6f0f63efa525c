"""Import scores for `stillroom store import`, from sealed segments of another checkout or store, or from plain Parquet.

* Every byte of a segment is hashed before it is copied, and the copy is published as the store's own writers do, so
  that `find_known` finds its scores at once.
* A segment keeps its bytes and so its id. A segment that contains its ranks (as work/**/segment does) keeps them.
* A segment is not copied if the store has all of its scores, in whatever segments.
* Cost: 0.5 s per segment of the default job. A segment that contains its ranks is some kB larger than one that the
  store wrote.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
from tqdm import tqdm

from pipeline.models.tokenizer import eos_ids, load_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.runtime.config import lookup
from pipeline.runtime.errors import DataError, StoreError
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.store.lookup import find_known
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import copy_files
from pipeline.store.store import Store
from pipeline.store_admin.import_parquet import ImportedTeacher, import_parquet, rank_entries
from pipeline.store_admin.parquet_rows import find_parquet

_SKIPPED = {"quarantine", ".git", ".venv"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """The outcome of importing one segment."""

    outcome: Literal["imported", "known", "damaged"]
    positions: int = 0  # that were imported
    error: StoreError | None = None  # of a damaged segment


def find_sealed(source: Path) -> list[Path]:
    """Return every sealed segment at or under a directory: a checkout, a work directory or a store."""
    segments = []
    for directory, children, files in os.walk(source):
        children[:] = [] if "manifest.json" in files else [name for name in children if not _skipped(name)]
        if {"manifest.json", "index.parquet"} <= set(files):
            segments.append(Path(directory))
    return sorted(segments)


def _skipped(name: str) -> bool:
    return name in _SKIPPED or name.startswith(".tmp-")


def import_segments(root: Path, paths: Sequence[Path]) -> Iterator[ImportResult]:
    """Copy segments into the store at `root`, and yield the outcome of each; damaged segments are not copied."""
    for path in paths:
        try:
            segment = Segment.open(path)
            if _is_known(root, segment):
                result = ImportResult(outcome="known")
            else:
                segment.verify()
                _publish(root, segment)
                result = ImportResult(outcome="imported", positions=segment.manifest.positions)
        except StoreError as error:
            result = ImportResult(outcome="damaged", error=error)
        yield result


def _is_known(root: Path, segment: Segment) -> bool:
    """Return whether the store has every score, in this segment or in others."""
    columns = [segment.index[name].to_pylist() for name in ("sequence_key", "support_key")]
    keys = set(zip(*columns, strict=True))
    return len(find_known(root, segment.manifest.scorer, sorted(keys))) == len(keys)


def _publish(root: Path, segment: Segment) -> None:
    with temporary_directory(root / "segments") as temporary:
        copy_files(segment, temporary)
        publish_segment(temporary, root / "segments" / segment.manifest.segment_id, segment.manifest)


def take_segments(paths: Sequence[Path]) -> dict[str, int]:
    """Import segments, and return how many were imported, known or damaged, and the number of imported positions."""
    counts = {"imported": 0, "known": 0, "damaged": 0, "positions": 0}
    results = import_segments(store_root(), paths)
    for result in tqdm(results, total=len(paths), desc="import", unit="segment", leave=False):
        counts[result.outcome] += 1
        counts["positions"] += result.positions
        if result.error is not None:
            click.echo(f"{result.error}", err=True)
    return counts


def take_parquet(source: Path, **options: Any) -> dict[str, int]:
    """Import a Parquet file or a directory of them, and return the numbers of sequences and positions.

    Args:
        source: The file or directory.
        options: `tokenizer`, `teacher` and `prompt_tokens` of the command line.

    Raises:
        DataError: An option or a column is missing, or a row is no distribution.
    """
    paths = find_parquet(source)
    if not paths:
        raise DataError(source, expected="sealed segments or Parquet files", got="neither", remedy="correct the path")
    origin = _origin(source, **options)
    ranks, total = rank_entries(paths, origin.vocab_size)
    counts = {"sequences": 0, "positions": 0}
    with tqdm(total=total, desc="import", unit="sequence", leave=False) as meter:
        codec = lookup(LAYOUT.params, "scoring", "codec")
        for sequences in import_parquet(Store(root=store_root()), paths, origin, codec, ranks):
            meter.update(len(sequences))
            counts["sequences"] += len(sequences)
            counts["positions"] += sum(len(sequence.scores) for sequence in sequences)
    return counts


def _origin(source: Path, tokenizer: Path | None, teacher: str | None, prompt_tokens: int | None) -> ImportedTeacher:
    if tokenizer is None or teacher is None:
        expected = "the tokenizer of the ids and a name for the teacher"
        raise DataError(source, expected=expected, got="not both", remedy="add --tokenizer DIRECTORY --teacher NAME")
    loaded = load_tokenizer(tokenizer)
    return ImportedTeacher(
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(loaded),
        vocab_size=shared_vocab(loaded),
        eos_ids=frozenset(eos_ids(loaded)),
        prompt_tokens=prompt_tokens,
    )
