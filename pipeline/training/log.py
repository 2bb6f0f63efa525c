"""The log of a training round: a CSV with one row a step, which survives a checkpoint exactly.

None, where a quantity has no meaning in a step, is an empty cell, and a quantity that never has any is no column.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
_KINDS: dict[str, type] = {"student": str, "round": str, "step": int, "tokens": int, "read_tokens": int}
_KINDS |= {"compared_tokens": int}


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write at least one row; the last names the columns."""
    names = [name for name in rows[-1] if any(row.get(name) is not None for row in rows)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_log(path: Path) -> list[Row]:
    """The rows of a training log, numbers as they were."""
    with path.open(newline="") as file:
        return [{key: _value(key, value) for key, value in row.items()} for row in csv.DictReader(file)]


def _value(key: str, text: str) -> Any:
    kind = _KINDS.get(key, float)
    return kind(text) if text or kind is str else None
