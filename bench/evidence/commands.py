"""The commands of bench/evidence/dvc.yaml, one per stage; all run in bench/evidence.

A command does several runs at once, one per processor, each in a process with one thread. It writes a file of rows,
rows/NAME-COMMAND.json, where NAME is `stories`, those of question 1, or the task after `--task`.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from bench.evidence import places, runs
from bench.evidence.llama2c import write_judge, write_teacher
from bench.evidence.mistakes import measure_repairs
from bench.evidence.projects import make_project, make_truncated, make_variant
from bench.evidence.side_by_side import side_by_side
from bench.evidence.stories import StoryParams, write_stories
from bench.evidence.tables import write_tables, write_task_tables
from bench.evidence.tasks import (
    DEFAULT,
    Comparison,
    LongerParams,
    StalenessParams,
    comparison,
    data_folder,
    project_params,
    read_task,
)
from bench.output import Row, write_json
from pipeline.runtime.config import section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import overlay_yaml, read_yaml

_PARAMS, _ROWS, _TABLES = Path("params.yaml"), Path("rows"), Path("tables")
_FEW = 3  # starts of `few_starts` and of other stores
_of_task = click.option("--task", help="A task of question 2; default: the stories.")


@click.group()
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
    for name, changes in _params()["variants"].items():
        make_variant(name, changes)


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
    _write(f"{c.name}-teacher", [row])


@main.command()
@_of_task
@click.pass_obj
def starts(processes: int, task: str | None) -> None:
    """Train students until off-policy steps no longer change them, one per seed and one for the tuning."""
    c = comparison(task)
    students = [partial(_start_row, c, seed) for seed in (c.tuning.seed, *c.seeds)]
    _write(f"{c.name}-start", side_by_side(students, processes))


@main.command()
@_of_task
@click.pass_obj
def tune(processes: int, task: str | None) -> None:
    """Train with every method at several learning rates from the tuning seed's start; measure on validation prompts."""
    c = comparison(task)
    setting, seed = c.setting(c.validation), c.tuning.seed
    begin = runs.train_start(setting, seed)
    rates: dict[str, Sequence[float]] = dict.fromkeys(c.methods, c.tuning.rates)
    rows: list[Row] = []
    while any(rates.values()):
        trials = [
            partial(runs.run_method, setting, method, rate, seed, begin) for method in rates for rate in rates[method]
        ]
        rows += side_by_side(trials, processes)
        rates = {method: c.further_rates([row for row in rows if row["method"] == method]) for method in c.methods}
    rows.sort(key=lambda row: (c.methods.index(row["method"]), row["rate"]))
    _write(f"{c.name}-tune", rows)


@main.command()
@_of_task
@click.pass_obj
def compare(processes: int, task: str | None) -> None:
    """Train with every method at its learning rate from every start; some of the stories in another store, too."""
    c = comparison(task)
    few, truncated = (_params()[key] if task is None else () for key in ("few_starts", "truncated"))
    trials = [
        trial for method in c.methods for trial in _trials(c, method, c.seeds[:_FEW] if method in few else c.seeds)
    ]
    trials += [trial for method in truncated for trial in _trials(c, method, c.seeds[:_FEW], store="truncated")]
    _write(f"{c.name}-compare", side_by_side(trials, processes))


@main.command()
@click.pass_obj
def longer(processes: int) -> None:
    """Train with some methods of a task for more steps than `compare`, from the first starts."""
    p = section(_PARAMS, LongerParams, "longer")
    c = comparison(p.task)
    trials = [trial for method in p.methods for trial in _trials(c, method, p.seeds, steps=p.steps, refresh=p.refresh)]
    _write(f"{c.name}-longer", side_by_side(trials, processes))


@main.command()
@click.pass_obj
def stale(processes: int) -> None:
    """Train on-policy with new completions after more or fewer steps, each of which is trained on once or more."""
    c, p = comparison(None), section(_PARAMS, StalenessParams, "staleness")
    trials = [
        trial
        for grid in p.grids
        for store, divergence, refresh, uses in product(grid.stores, grid.divergences, grid.refresh, grid.uses)
        for trial in _trials(c, f"on-{divergence}", p.seeds, store=store, refresh=refresh, uses=uses)
    ]
    _write(f"{c.name}-stale", side_by_side(trials, processes))


@main.command()
def tables() -> None:
    """Write the table and the figure of each question from the rows."""
    p = _params()
    write_tables(_rows("stories"), p["methods"], p["baseline"], _TABLES)
    tasks = {task: (comparison(task).goal, _rows(task)) for task in p["tasks"]}
    write_task_tables(tasks, p["task_methods"], p["baseline"], _TABLES)


def _rows(name: str) -> dict[str, list[Row]]:
    """Return the rows of the stories or of a task by command, as far as there are files."""
    files = {path.stem.removeprefix(f"{name}-"): path for path in sorted(_ROWS.glob(f"{name}-*.json"))}
    return {command: read_json(path)["rows"] for command, path in files.items()}


def _params() -> dict[str, Any]:
    return read_yaml(_PARAMS)


def _trials(
    c: Comparison, method: str, seeds: Sequence[int], *, store: str | None = None, **schedule: int
) -> list[Callable[[], Row]]:
    """Return the runs of a method at its learning rate from the starts of some seeds; `store` is another project."""
    rate = c.best_rate([row for row in _rows(c.name)["tune"] if row["method"] == method])
    on = c.setting(c.project)
    setting = c.setting(store or c.project)
    return [
        partial(runs.run_method, setting, method, rate, seed, runs.train_start(on, seed), **schedule) for seed in seeds
    ]


def _start_row(c: Comparison, seed: int) -> Row:
    """Return the row of a start, which is trained unless it is there; the tuning has the second project."""
    setting = c.setting(c.validation if seed == c.tuning.seed else c.project)
    row = {"method": "start", "store": setting.project, "seed": seed}
    return row | runs.measured(setting, runs.train_start(setting, seed))


def _write(name: str, rows: list[Row]) -> None:
    _ROWS.mkdir(exist_ok=True)
    write_json(_ROWS / f"{name}.json", rows)
