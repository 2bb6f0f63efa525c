"""The output of every benchmark: a table on the screen, and its rows as JSON on request."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from pipeline.runtime.atomic import replacing
from pipeline.runtime.text import markdown_table

Row: TypeAlias = dict[str, Any]


def show(table: Sequence[Sequence[str]], rows: Sequence[Row], out: Path | None, **about: object) -> None:
    """Print a table, whose first row is its header; write {"rows": [...]} with `about` to `out` if it is given."""
    click.echo(markdown_table(table))
    if out is not None:
        write_json(out, rows, **about)


def write_json(out: Path, rows: Sequence[Row], **about: object) -> None:
    """Write the file by rename, so that a benchmark that is stopped leaves the rows that it had."""
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(about | {"rows": list(rows)}, indent=2) + "\n", encoding="utf-8")
