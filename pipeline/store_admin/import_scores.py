"""Import scores for `stillroom store import`, from sealed segments or from plain Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pipeline.models.tokenizer import eos_ids, load_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.runtime.config import lookup
from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.store.store import Store
from pipeline.store_admin.import_parquet import ImportedTeacher, import_parquet, rank_entries
from pipeline.store_admin.import_segments import import_segments
from pipeline.store_admin.parquet_rows import find_parquet


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
