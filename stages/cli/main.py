"""The `stillroom` command: what is not a stage. Stages are `python -m stages.NAME` and are run by dvc."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import LAYOUT, store_root
from stages._stage import run
from stages.cli.model import best, merge
from stages.cli.store import store


@click.group(help="Distil a language model from a teacher that is loaded once.")
def commands() -> None:
    pass


for one in (best, merge, store):
    commands.add_command(one)


@commands.command()
@click.option("--total-steps", type=click.IntRange(1), help="Change it in params.yaml first.")
@click.option("--refresh-every", type=click.IntRange(1), help="Change it in params.yaml first.")
def plan(**schedule: int | None) -> None:
    """Write rounds.yaml from params.yaml: schedule, students and sft."""
    from pipeline.runtime.config import section
    from pipeline.runtime.files import replacing
    from pipeline.runtime.yaml_files import edit_yaml
    from pipeline.workspace.schedule import ScheduleParams, follow_params

    section(LAYOUT.params, ScheduleParams, "schedule")  # its mistakes first
    changes: dict[tuple[str, ...], int] = {("schedule", key): n for key, n in schedule.items() if n is not None}
    if changes:
        text = edit_yaml(LAYOUT.params, changes)
        with replacing(LAYOUT.params) as temporary:
            temporary.write_text(text)
    follow_params()


@commands.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--name", required=True, help="Whose parameters: sft.NAME.")
def sft(model: Path, out: Path, name: str) -> None:
    """Tune MODEL on the references of work/prompts and write it to OUT, with its log beside it in OUT.csv."""
    from stages.sft import main as stage

    stage.run(name=name, model=model, out=out, log=out.with_name(f"{out.name}.csv"))


@commands.command()
@click.argument("name", required=False)
@click.option("--method", help="Of presets/methods: sft, supervised, sequence-level, mixed or on-policy.")
@click.option("--force", is_flag=True, help="Also over a params.yaml or rounds.yaml that was changed by hand.")
def preset(name: str | None, method: str | None, force: bool) -> None:
    """Write params.yaml and rounds.yaml from presets/NAME.yaml; without NAME list what there is (* is params.yaml)."""
    from pipeline.workspace.presets import choose, listing

    if name is None:
        click.echo("\n".join(listing()))
        return
    choose(name, method, force=force)
    over = f" and presets/methods/{method}.yaml" if method else ""
    click.echo(f"wrote params.yaml and rounds.yaml from presets/{name}.yaml{over}; next: `make repro`")


@commands.command()
@click.option("--teacher", required=True, help="Hub name, directory or .gguf file.")
@click.option("--student", required=True, help="The same, or `teacher`: half of the teacher's layers.")
@click.option("--data", help="Hub name, directory or file; the tasks docstrings and arithmetic need none.")
@click.option("--task", help="Default: what the columns are for.")
@click.option("--config", help="Of the data on the hub.")
@click.option("--train-split", help="Default: train, or the only one.")
@click.option("--heldout-split", help="Default: test, validation, valid, val or dev, or the last tenth of train.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=COLUMN", help="Such as answer_column=solution.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=LAYOUT.params, show_default=True)
@click.option("--force", is_flag=True, help="Also over changes of your own.")
def init(columns: tuple[str, ...], out: Path, force: bool, **wish: Any) -> None:
    """Write params.yaml for your own models and data, after checking that they fit together."""
    from pipeline.workspace.quickstart import InitRequest, write_params

    named = dict(one.split("=", 1) for one in columns if "=" in one)
    for line in write_params(InitRequest(columns=named, **wish), out, force=force):
        click.echo(line)
    click.echo(f"wrote {out}; next: `stillroom doctor`, then `make repro`")


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Every stage, for scripts.")
def status(as_json: bool) -> None:
    """How far the schedule is, and what the rest takes; also while `dvc repro` runs."""
    from pipeline.workspace.status import as_text, read_status, to_json

    jobs, left = read_status()
    click.echo(json.dumps(to_json(jobs, left)) if as_json else as_text(jobs, left))


@commands.command()
@click.option("--schema", is_flag=True, help="Print the JSON schema of params.yaml for editors instead.")
def parameters(schema: bool) -> None:
    """Print the page of all parameters: docs/parameters.md."""
    from pipeline.workspace.parameter_reference import page, parameter_schema

    click.echo(json.dumps(parameter_schema(), indent=1) if schema else page(LAYOUT.params).rstrip("\n"))


@commands.command()
def table() -> None:
    """Print the table of the last run."""
    path = LAYOUT.report / "table.md"
    if not path.is_file():
        raise DataError(path, expected="the table of a run", got="nothing", remedy="run `make repro`")
    click.echo(path.read_text(), nl=False)


@commands.command()
@click.argument("runs", nargs=-1, required=True, metavar="[REV|DIR]...")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default="report/compare.html", show_default=True
)
def compare(runs: tuple[str, ...], out: Path) -> None:
    """Write one page about several runs: checkouts, metrics.json files, revisions, experiments of `dvc exp`."""
    from pipeline.report.compare import write_comparison

    size = write_comparison(runs, out)
    click.echo(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {size:,} bytes")


@commands.command()
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="One object a row, for scripts.")
def query(sql: str, as_json: bool) -> None:
    """Ask DuckDB over the files of a run and the store, such as "select * from runs"; docs/commands.md lists views."""
    from pipeline.report import views
    from pipeline.runtime.markdown import markdown_table

    columns, rows = views.query(views.connect(LAYOUT.work, LAYOUT.logs, store_root()), sql)
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
    else:
        click.echo(markdown_table([columns, *([str(one) for one in row] for row in rows)]))


@commands.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All of it, for scripts.")
@click.option("--card", "as_card", is_flag=True, help="The model card instead, with what the evaluation measured.")
def lineage(model: Path, as_json: bool, as_card: bool) -> None:
    """Where MODEL, a model directory, comes from: teacher, data, parameters, rounds, tokens, seconds, code."""
    from pipeline.lineage.describe import describe_card, describe_json, describe_text

    if as_json and not as_card:
        click.echo(json.dumps(describe_json(model)))
    else:
        click.echo(describe_card(model) if as_card else describe_text(model), nl=False)


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="One object per check, for scripts.")
def doctor(as_json: bool) -> None:
    """Check the set-up and print how to fix it; exit with code 1 if something is wrong."""
    from pipeline.workspace.doctor import Setup, examine

    findings = []
    for finding in examine(Setup(root=Path(), store=store_root())):
        findings.append(finding)
        if not as_json:  # immediately, because some checks take seconds
            remedy = f"\n       -> {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.state:5}  {finding.check:11}  {finding.message}{remedy}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)


def main() -> None:
    """Entry point of the `stillroom` command."""
    run(commands)


if __name__ == "__main__":
    main()
