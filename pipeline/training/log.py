"""The log of a training round: a CSV file with one row per step, which reads back exactly as it was written.

A quantity without a value in a step (None) is an empty cell, and a quantity without a value in any step has no column.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.runtime.atomic import replacing

Row: TypeAlias = dict[str, Any]
_TYPES = {"student": str, "round": str} | dict.fromkeys(("step", "tokens", "read_tokens", "compared_tokens"), int)


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write at least one row; the keys of the last row are the columns."""
    names = [name for name in rows[-1] if any(row.get(name) is not None for row in rows)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_empty_log(path: Path) -> None:
    """Write the log of a round without a step: the columns that every log has."""
    with replacing(path) as temporary:
        temporary.write_text("student,round,step,loss\n", encoding="utf-8")


def read_log(path: Path) -> list[Row]:
    """Return the rows of a training log, with every number as it was written."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: _value(key, value) for key, value in row.items()} for row in csv.DictReader(file)]


def _value(key: str, text: str) -> Any:
    kind = _TYPES.get(key, float)
    return kind(text) if text or kind is str else None
