"""The `stillroom` command. Its subcommands are no stages; DVC runs the stages as `python -m stages.NAME`.

The commands import what they need when they run, so that `--help` and quick commands do not load torch.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline.runtime.errors import DataError, UserError
from pipeline.runtime.layout import LAYOUT, store_root
from stages._stage import run
from stages.cli.store import store


@click.group()
def commands() -> None:
    """Distil a language model from cached scores of its teacher."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "dvc.yaml").is_file():
        remedy = "clone the repository, run `make setup` there, and use its .venv"
        got = f"a package installed in {root}"
        raise UserError("stillroom", expected="a clone, which is the workspace", got=got, remedy=remedy)


commands.add_command(store)


@commands.command()
@click.option("--total-steps", type=click.IntRange(1), help="First write this value to params.yaml.")
@click.option("--refresh-every", type=click.IntRange(1), help="First write this value to params.yaml.")
def plan(**schedule: int | None) -> None:
    """Write rounds.yaml from the schedule in params.yaml.

    It also depends on the students and on the section sft.
    """
    from pipeline.runtime.atomic import replacing
    from pipeline.runtime.config import section
    from pipeline.runtime.yaml_files import edit_yaml
    from pipeline.workspace.schedule import ScheduleParams, follow_params

    section(LAYOUT.params, ScheduleParams, "schedule")  # reports mistakes before anything is written
    changes: dict[tuple[str, ...], int] = {("schedule", key): steps for key, steps in schedule.items() if steps}
    if changes:
        text = edit_yaml(LAYOUT.params, changes)
        with replacing(LAYOUT.params) as temporary:
            temporary.write_text(text, encoding="utf-8")
    follow_params()


@commands.command()
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--name", required=True, help="Use the parameters of sft.NAME.")
def sft(model: Path, out: Path, name: str) -> None:
    """Fine-tune MODEL on the references in work/prompts.

    The tuned model goes to OUT, and the log of the training to OUT.csv.
    """
    from stages.sft import main as stage

    stage.run(name=name, model=model, out=out, log=out.with_name(f"{out.name}.csv"))


@commands.command()
@click.argument("name", required=False)
@click.option("--method", help="Also apply a file of presets/methods, such as on-policy or sequence-level.")
@click.option("--divergence", help="Also apply a file of presets/divergences: forward_kl, reverse_kl or jsd.")
@click.option("--force", is_flag=True, help="Overwrite a params.yaml or rounds.yaml that was changed by hand.")
def preset(name: str | None, method: str | None, divergence: str | None, force: bool) -> None:
    """Write params.yaml and rounds.yaml from a preset.

    The preset is presets/NAME.yaml. Without NAME, list the presets; a * marks the present params.yaml.
    """
    from pipeline.workspace.presets import choose, listing

    if name is None:
        click.echo("\n".join(listing()))
        return
    overlays = ", ".join(map(str, choose(name, method, divergence, force=force)))
    click.echo(f"wrote params.yaml and rounds.yaml from {overlays}; next: `make repro`")


@commands.command()
@click.option("--teacher", required=True, help="Hub name, directory or .gguf file.")
@click.option("--student", required=True, help="The same, or `teacher` for half of the teacher's layers.")
@click.option("--fresh", is_flag=True, help="Begin with random weights, in the shape of the student.")
@click.option("--lora", "--use-peft", is_flag=True, help="Train a LoRA adapter to the student.")
@click.option("--data", help="Hub name, directory or file; the tasks docstrings and arithmetic need none.")
@click.option("--task", help="Default: the task that the columns of the data fit.")
@click.option("--config", help="Configuration of a data set on the hub.")
@click.option("--train-split", help="Default: train, or the only split.")
@click.option("--heldout-split", help="Default: test, validation, valid, val or dev, else the last tenth of train.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=COLUMN", help="Such as answer_column=solution.")
@click.option(
    "--completions",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    help="Completions of the teacher that decide max_new_tokens; 0 takes the lengths of the references.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=LAYOUT.params, show_default=True)
@click.option("--force", is_flag=True, help="Overwrite your own changes.")
def init(
    teacher: str,
    student: str,
    fresh: bool,
    lora: bool,
    completions: int,
    columns: tuple[str, ...],
    out: Path,
    force: bool,
    **data: Any,
) -> None:
    """Write params.yaml for your own models and data.

    Check first that they fit together, and ask the teacher for a few completions.
    """
    from pipeline.workspace.data_inspection import DataRequest
    from pipeline.workspace.quickstart import InitRequest, write_params

    pairs = [column.partition("=") for column in columns]
    if wrong := [field for field, equals, column in pairs if not (field and equals and column)]:
        raise click.BadParameter(f"expected FIELD=COLUMN, got {wrong[0]!r}", param_hint="--column")
    request = InitRequest(
        teacher=teacher,
        student=student,
        fresh=fresh,
        lora=lora,
        completions=completions,
        data=DataRequest(columns={field: column for field, _, column in pairs}, **data),
    )
    for line in write_params(request, out, force=force):
        click.echo(line)
    click.echo(f"wrote {out}; next: `stillroom doctor`, then `make repro`")


@commands.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def repro(options: tuple[str, ...]) -> None:
    """Run `dvc repro OPTIONS`, with less time to start stages.

    This process imports the packages of all stages once.
    """
    from stages._forks import run_with_forks

    raise SystemExit(run_with_forks([sys.executable, "-m", "stages._dvc", "repro", *options]))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print every stage, for scripts.")
def status(as_json: bool) -> None:
    """Print how far the schedule is and what is left.

    This works while `dvc repro` runs.
    """
    from pipeline.workspace.status import as_text, read_status

    jobs, left = read_status()
    stages = [asdict(job) for job in jobs]
    click.echo(json.dumps({"stages": stages, "left": left}) if as_json else as_text(jobs, left))


@commands.command()
@click.option("--schema", is_flag=True, help="Print the JSON schema of params.yaml for editors instead.")
def parameters(schema: bool) -> None:
    """Print the page about all parameters, docs/parameters.md."""
    from pipeline.workspace.parameter_reference import page, parameter_schema

    click.echo(json.dumps(parameter_schema(), indent=1) if schema else page(LAYOUT.params).rstrip("\n"))


@commands.command()
def table() -> None:
    """Print the result table of the last run."""
    path = LAYOUT.report / "table.md"
    if not path.is_file():
        raise DataError(path, expected="the table of a run", got="nothing", remedy="run `make repro`")
    click.echo(path.read_text(encoding="utf-8"), nl=False)


@commands.command()
@click.argument("runs", nargs=-1, required=True, metavar="[REV|DIR]...")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default="report/compare.html", show_default=True
)
def compare(runs: tuple[str, ...], out: Path) -> None:
    """Write one page about several runs.

    A run is a checkout, a metrics.json file, a revision, or an experiment of `dvc exp`.
    """
    from pipeline.report.compare import write_comparison
    from pipeline.runtime.text import size_text

    size = write_comparison(runs, out)
    click.echo(f"{out}: {len(runs)} run{'s' if len(runs) > 1 else ''}, {size_text(size)}")


@commands.command()
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="Print one object per row, for scripts.")
def query(sql: str, as_json: bool) -> None:
    """Run SQL on the files of a run and the store.

    An example is "select * from runs"; docs/commands.md lists the views.
    """
    from pipeline.report import views
    from pipeline.runtime.text import markdown_table

    columns, rows = views.query(views.connect(LAYOUT.work, LAYOUT.logs, store_root()), sql)
    if as_json:
        click.echo(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
    else:
        click.echo(markdown_table([columns, *([str(value) for value in row] for row in rows)]))


@commands.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all of it, for scripts.")
@click.option("--card", "as_card", is_flag=True, help="Print the model card with the evaluation's metrics instead.")
def lineage(model: Path, as_json: bool, as_card: bool) -> None:
    """Print where the model directory MODEL comes from.

    That is its teacher, data, parameters, rounds, tokens, seconds and code.
    """
    from pipeline.lineage.describe import describe_card, describe_json, describe_text, read_sources

    if as_card:
        click.echo(describe_card(model), nl=False)
    elif as_json:
        click.echo(json.dumps(describe_json(*read_sources(model))))
    else:
        click.echo(describe_text(*read_sources(model)))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object per check, for scripts.")
def doctor(as_json: bool) -> None:
    """Check the set-up and print how to fix it.

    The exit code is 1 if something is wrong.
    """
    from pipeline.workspace.doctor import examine

    findings = []
    for finding in examine(LAYOUT):
        findings.append(finding)
        if not as_json:  # immediately, because some checks take seconds
            remedy = f"\n       -> {finding.remedy}" if finding.remedy else ""
            click.echo(f"{finding.state:5}  {finding.check:11}  {finding.message}{remedy}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state == "wrong" for finding in findings):
        raise SystemExit(1)


@commands.command()
@click.argument("model", type=Path)
@click.argument("out", type=Path)
def merge(model: Path, out: Path) -> None:
    """Merge a LoRA student and its base into an ordinary model.

    MODEL is the adapter in a round of the student; OUT becomes a model directory in float32.
    """
    from pipeline.models.language_model import load_model, save_model
    from pipeline.models.round_trip import check_written, probe_logits
    from pipeline.models.tokenizer import load_tokenizer, save_tokenizer
    from pipeline.runtime.atomic import whole_directory

    if out.exists():
        raise DataError(out, expected="no such file or directory yet", got="one", remedy="name another, or remove it")
    with whole_directory(out) as folder:
        merged = load_model(model)
        save_model(merged, folder)
        check_written(folder, probe_logits(merged), where=out)
        save_tokenizer(load_tokenizer(model), folder)
    click.echo(out)


@commands.command()
@click.argument("student")
def best(student: str) -> None:
    """Print the model directory of a student's best round.

    That is the best on held-out prompts by the KL divergence that is trained, and where none is, by the main metric.
    """
    from pipeline.report.metric_titles import measure
    from pipeline.report.summary import best_round, deciding_measure
    from pipeline.runtime.config import lookup
    from pipeline.runtime.files import read_json
    from pipeline.runtime.layout import round_list
    from pipeline.runtime.yaml_files import read_yaml

    rounds = [item["id"] for item in round_list(read_yaml(LAYOUT.rounds))]
    evaluations = {id_: read_json(LAYOUT.evaluation(f"{student}-{id_}")) for id_ in rounds}
    name = deciding_measure(lookup(LAYOUT.params, "objective"), evaluations[rounds[-1]]["headline"])
    best = best_round([(id_, evaluation["metrics"]) for id_, evaluation in evaluations.items()], name)
    if best is None:
        raise DataError(LAYOUT.evaluations, expected=f"a finite {name}", got="none", remedy="see logs/")
    click.echo(f"{best['round']} is best by {measure(name).title}: {measure(name).show(best[name])}", err=True)
    click.echo(LAYOUT.round(student, best["round"]).model)


def main() -> None:
    """Run the `stillroom` command."""
    run(commands)
