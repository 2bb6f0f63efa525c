"""The log of a training round: a CSV with one row a step, which survives a checkpoint exactly."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
_KINDS: dict[str, type] = {"student": str, "round": str, "step": int, "tokens": int, "read_tokens": int}


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write at least one row; the first names the columns."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_log(path: Path) -> list[Row]:
    """The rows of a training log, numbers as they were."""
    with path.open(newline="") as file:
        return [{key: _KINDS.get(key, float)(value) for key, value in row.items()} for row in csv.DictReader(file)]
