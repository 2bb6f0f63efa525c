"""The two kinds of source of `stillroom store import`: sealed segments, and plain Parquet."""

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
    """How many segments were imported, known or damaged, and the imported positions."""
    counts = {"imported": 0, "known": 0, "damaged": 0, "positions": 0}
    for one in tqdm(import_segments(store_root(), paths), total=len(paths), desc="import", unit="segment", leave=False):
        counts[one.outcome] += 1
        counts["positions"] += one.positions if one.outcome == "imported" else 0
        if one.error is not None:
            click.echo(f"{one.error}", err=True)
    return counts


def take_parquet(source: Path, **given: Any) -> dict[str, int]:
    """How many sequences and positions were imported."""
    paths = find_parquet(source)
    if not paths:
        raise DataError(source, expected="sealed segments or Parquet files", got="neither", remedy="correct the path")
    origin = _origin(source, **given)
    ranks, total = rank_entries(paths, origin.vocab_size)
    counts = {"sequences": 0, "positions": 0}
    with tqdm(total=total, desc="import", unit="sequence", leave=False) as meter:
        for part in import_parquet(
            Store(root=store_root()), paths, origin, lookup(LAYOUT.params, "scoring", "codec"), ranks
        ):
            meter.update(len(part))
            counts["sequences"] += len(part)
            counts["positions"] += sum(len(one.rollout.completion_ids) for one in part)
    return counts


def _origin(source: Path, tokenizer: Path | None, teacher: str | None, prompt_tokens: int | None) -> ImportedTeacher:
    if tokenizer is None or teacher is None:
        remedy = "add --tokenizer DIRECTORY --teacher NAME"
        raise DataError(
            source, expected="the tokenizer of the ids and a name for the teacher", got="not both", remedy=remedy
        )
    loaded = load_tokenizer(tokenizer)
    return ImportedTeacher(
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(loaded),
        vocab_size=shared_vocab(loaded),
        eos_ids=frozenset(eos_ids(loaded)),
        prompt_tokens=prompt_tokens,
    )
