"""What every benchmark leaves: a table on the screen and, where asked for, its rows as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.runtime.files import replacing
from pipeline.runtime.markdown import markdown_table

Row: TypeAlias = dict[str, Any]


def show(table: Sequence[Sequence[str]], rows: Sequence[Row], out: Path | None, **about: object) -> None:
    """Print the table, whose first row is its head; write {"rows": [...]} and what else is said of them to `out`."""
    click.echo(markdown_table(table))
    if out is not None:
        write_json(out, rows, **about)


def write_json(out: Path, rows: Sequence[Row], **about: object) -> None:
    """The file, whole at any time: one that is stopped leaves what it had."""
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(about | {"rows": list(rows)}, indent=2) + "\n")
