"""What every benchmark leaves: a table on the screen and, where asked for, its rows as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.report import markdown

Row: TypeAlias = dict[str, Any]


def show(table: Sequence[Sequence[str]], rows: Sequence[Row], out: Path | None, **about: object) -> None:
    """Print the table, whose first row is its head; write {"rows": [...]} and what else is said of them to `out`."""
    click.echo("\n".join(markdown(table)))
    if out is not None:
        out.write_text(json.dumps(about | {"rows": list(rows)}, indent=2) + "\n")
