"""The commands of bench/evidence/dvc.yaml, one per stage; all run in bench/evidence.

A command does several runs at once, one per processor, each in a process with one thread.
Without `--task` a command is about the stories of question 1. With it, the names of the files of rows begin with
task-TASK. Commands can follow each other: `tune --task T METHOD compare --task T METHOD`.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench.evidence import places, runs
from bench.evidence.llama2c import write_judge, write_teacher
from bench.evidence.mistakes import measure_repairs
from bench.evidence.projects import make_project, make_truncated
from bench.evidence.side_by_side import side_by_side
from bench.evidence.stories import StoryParams, write_stories
from bench.evidence.tables import write_tables, write_task_tables
from bench.evidence.tasks import DEFAULT, Comparison, comparison, data_folder, project_params, read_task
from bench.output import Row, write_json
from pipeline.runtime.config import section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import overlay_yaml, read_yaml

_PARAMS, _ROWS, _TABLES = Path("params.yaml"), Path("rows"), Path("tables")
_FEW = 3  # starts of `few_starts` and of the truncated store
_of_task = click.option("--task", help="A task of question 2; default: the stories.")


@click.group(chain=True)
@click.option("--processes", default=os.cpu_count() or 1, show_default=True, help="Runs that take place at once.")
@click.pass_context
def main(context: click.Context, processes: int) -> None:
    """Run stages of the evidence."""
    context.obj = processes


@main.command()
def data() -> None:
    """Convert teacher and judge, and let the judge write the stories."""
    write_teacher(data_folder("stories"), places.TEACHER)
    write_judge(places.JUDGE)
    write_stories(places.JUDGE, places.STORIES, section(_PARAMS, StoryParams, "stories"))


@main.command()
def projects() -> None:
    """Make the projects of the stories."""
    make_project("exact", "validation", overlay_yaml(DEFAULT, Path("stories.yaml")))
    make_truncated(DEFAULT)


@main.command()
@click.argument("task")
def project(task: str) -> None:
    """Make the projects of a task, and measure its teacher."""
    p, c = read_task(task), comparison(task)
    make_project(c.project, c.validation, project_params(task), mistakes=p.mistakes or 0)
    home = places.project(c.project)
    row = {"method": "teacher", "store": task} | read_json(Layout(home).evaluation("teacher"))["metrics"]
    if p.mistakes is not None:
        row |= measure_repairs(home, Layout(home).teacher)
    _write(f"{c.rows}teacher", [row])


@main.command()
@click.argument("seed", type=int)
def start(seed: int) -> None:
    """Train a student of the stories until off-policy steps no longer change it."""
    _write(f"start-{seed}", [_start_row(comparison(None), seed)])


@main.command()
@click.argument("task")
@click.pass_obj
def starts(processes: int, task: str) -> None:
    """Train the students of a task before the comparison, also the one for the tuning."""
    c = comparison(task)
    students = [partial(_start_row, c, seed) for seed in (c.tuning.seed, *c.seeds)]
    _write(f"{c.rows}start", side_by_side(students, processes))


@main.command()
@click.argument("method")
@_of_task
@click.pass_obj
def tune(processes: int, method: str, task: str | None) -> None:
    """Train with a method at each learning rate from the tuning seed's start, and measure on validation prompts."""
    c = comparison(task)
    setting, seed = c.setting(c.validation), c.tuning.seed
    begin = runs.train_start(setting, seed)
    trials = [partial(runs.run_method, setting, method, rate, seed, begin) for rate in c.tuning.rates]
    _write(f"{c.rows}tune-{method}", side_by_side(trials, processes))


@main.command()
@click.argument("method")
@click.argument("store", default="")
@_of_task
@click.pass_obj
def compare(processes: int, method: str, store: str, task: str | None) -> None:
    """Train with a method at its learning rate from every start; STORE is another project with the same starts."""
    c = comparison(task)
    name = store or c.project
    few = store or (task is None and method in _params()["few_starts"])
    rows = _from_starts(c, method, c.seeds[:_FEW] if few else c.seeds, processes, store=name)
    _write(f"task-{task}-{method}" if task else f"{name}-{method}", rows)


@main.command()
@click.argument("task")
@click.argument("method")
@click.pass_obj
def longer(processes: int, task: str, method: str) -> None:
    """Train with a method for more steps than `compare`, from the first starts."""
    c, p = comparison(task), _params()["longer"]
    rows = _from_starts(c, method, p["seeds"], processes, steps=p["steps"], refresh=p["refresh"])
    _write(f"{c.rows}longer-{method}", rows)


@main.command()
@click.argument("divergence")
@click.argument("refresh", type=int)
@click.argument("uses", type=int)
@click.pass_obj
def stale(processes: int, divergence: str, refresh: int, uses: int) -> None:
    """Train on-policy with new completions after every REFRESH steps, each of which is trained on USES times."""
    seeds = _params()["staleness"]["seeds"]
    rows = _from_starts(comparison(None), f"on-{divergence}", seeds, processes, refresh=refresh, uses=uses)
    _write(f"stale-{divergence}-{refresh}-{uses}", rows)


@main.command()
def tables() -> None:
    """Write the table and the figure of each question from the rows."""
    p, rows = _params(), [row for path in sorted(_ROWS.glob("*.json")) for row in read_json(path)["rows"]]
    write_tables(rows, p["methods"], p["baseline"], _TABLES)
    goals = {task: comparison(task).goal for task in p["tasks"]}
    write_task_tables(rows, goals, p["task_methods"], p["baseline"], _TABLES)


def _params() -> dict[str, Any]:
    return read_yaml(_PARAMS)


def _rate(c: Comparison, method: str) -> float:
    """Return the learning rate with which a method is best on the validation prompts."""
    return c.best_rate(read_json(_ROWS / f"{c.rows}tune-{method}.json")["rows"])


def _from_starts(
    c: Comparison, method: str, seeds: Sequence[int], processes: int, *, store: str | None = None, **schedule: int
) -> list[Row]:
    """Return the rows of a method at its learning rate from the starts of some seeds; `store` is another project."""
    rate, on = _rate(c, method), c.setting(c.project)
    setting = c.setting(store or c.project)
    trials = [
        partial(runs.run_method, setting, method, rate, seed, runs.train_start(on, seed), **schedule) for seed in seeds
    ]
    return side_by_side(trials, processes)


def _start_row(c: Comparison, seed: int) -> Row:
    """Return the row of a start, which is trained unless it is there; the tuning has the second project."""
    setting = c.setting(c.validation if seed == c.tuning.seed else c.project)
    row = {"method": "start", "store": setting.project, "seed": seed}
    return row | runs.measured(setting, runs.train_start(setting, seed))


def _write(name: str, rows: list[Row]) -> None:
    _ROWS.mkdir(exist_ok=True)
    write_json(_ROWS / f"{name}.json", rows)
