"""The `stillroom` command: what is not a stage. Stages are `python -m stages.NAME` and are run by dvc."""

import json
from pathlib import Path

import click

from pipeline.errors import DataError
from stages.command import PARAMS, run, store_root
from stages.store_cli import store


@click.group(help="Distil a language model from a teacher that is loaded once.")
def commands() -> None:
    pass


commands.add_command(store)


@commands.command()
def plan() -> None:
    """Write rounds.yaml from params.yaml:schedule."""
    from pipeline.params import section
    from pipeline.schedule import ScheduleParams, write_rounds

    write_rounds(Path("rounds.yaml"), section(PARAMS, ScheduleParams, "schedule"))


@commands.command()
def table() -> None:
    """Print the table of the last run."""
    path = Path("report/table.md")
    if not path.is_file():
        raise DataError(path, expected="the table of a run", got="nothing", remedy="run `make repro`")
    click.echo(path.read_text(), nl=False)


@commands.command()
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="One object a row, for scripts.")
def query(sql: str, as_json: bool) -> None:
    """Ask DuckDB over the files of a run and the store; the README lists the views, such as "select * from runs"."""
    from pipeline import views
    from pipeline.report import markdown

    columns, rows = views.query(views.connect(Path("work"), Path("logs"), store_root()), sql)
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
    else:
        click.echo("\n".join(markdown([columns, *([str(one) for one in row] for row in rows)])))


def main() -> None:
    """Entry point of the `stillroom` command."""
    run(commands)


if __name__ == "__main__":
    main()
