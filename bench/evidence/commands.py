"""The commands of bench/evidence/dvc.yaml, one per stage; all run in bench/evidence.

A command does several runs at once, one per processor, each in a process with one thread. It writes its rows to
rows/TASK-COMMAND.json, and `project` those of the teacher to rows/TASK-teacher.json.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import click

from bench.evidence import places, runs
from bench.evidence.llama2c import write_judge, write_teacher
from bench.evidence.mistakes import measure_repairs
from bench.evidence.places import validation
from bench.evidence.projects import make_project, make_truncated, make_variant
from bench.evidence.side_by_side import side_by_side
from bench.evidence.stories import StoryParams, write_stories
from bench.evidence.tables import write_tables
from bench.evidence.tasks import (
    DEFAULT,
    PARAMS,
    FewParams,
    LongerParams,
    StaleParams,
    data_folder,
    project_params,
    read_project,
    read_task,
)
from bench.output import Row, write_json
from pipeline.runtime.config import section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import read_yaml

_ROWS, _TABLES = Path("rows"), Path("tables")
_of_task = click.argument("task")


@click.group()
@click.option("--processes", default=os.cpu_count() or 1, show_default=True, help="Runs that take place at once.")
@click.pass_context
def main(context: click.Context, processes: int) -> None:
    """Run a stage of the evidence."""
    context.obj = processes


@main.command()
def data() -> None:
    """Convert teacher and judge, and let the judge write the stories."""
    write_teacher(data_folder("stories"), places.TEACHER)
    write_judge(places.JUDGE)
    write_stories(places.JUDGE, places.STORIES, section(PARAMS, StoryParams, "stories"))


@main.command()
@click.argument("name")
def project(name: str) -> None:
    """Make a project and the one for the tuning, and measure its teacher."""
    make_project(name, project_params(name), mistakes=read_project(name).mistakes)
    home = places.project(name)
    row = {"method": "teacher", "project": name} | read_json(Layout(home).evaluation("teacher"))["metrics"]
    if read_task(name).measures == "repairs":
        row |= measure_repairs(home, Layout(home).teacher)
    _write(f"{name}-teacher", [row])


@main.command()
def variants() -> None:
    """Make the projects with other stores of the stories."""
    make_truncated(DEFAULT)
    for name, changes in read_yaml(PARAMS)["variants"].items():
        make_variant(name, changes)


@main.command()
@_of_task
@click.pass_obj
def starts(processes: int, task: str) -> None:
    """Train students off-policy before the comparison, one per seed and one for the tuning."""
    p = read_task(task)
    students = [partial(runs.start_row, task, p, seed) for seed in p.seeds]
    students.append(partial(runs.start_row, validation(task), p, p.tuning.seed))
    _write(f"{task}-starts", side_by_side(students, processes))


@main.command()
@_of_task
@click.pass_obj
def tune(processes: int, task: str) -> None:
    """Train with every method at several learning rates from the tuning's start, and measure on validation prompts."""
    p, name = read_task(task), validation(task)
    start = runs.train_start(name, p.start, p.tuning.seed)
    trials = [(method, rate) for method in p.methods for rate in p.tuning.rates]
    rows: list[Row] = []
    while trials:
        rows += side_by_side(
            [partial(runs.run_method, name, p, method, rate, p.tuning.seed, start) for method, rate in trials],
            processes,
        )
        following = [(method, p.next_rate(_of_method(rows, method))) for method in p.methods]
        trials = [(method, rate) for method, rate in following if rate is not None]
    rows.sort(key=lambda row: (p.methods.index(row["method"]), row["rate"]))
    _write(f"{task}-tune", rows)


@main.command()
@_of_task
@click.pass_obj
def compare(processes: int, task: str) -> None:
    """Train with every method at its learning rate from every start."""
    p, few = read_task(task), section(PARAMS, FewParams, "few")
    trials = [
        trial
        for method in p.methods
        for trial in _trials(task, method, few.seeds if method in few.methods else p.seeds)
    ]
    _write(f"{task}-compare", side_by_side(trials, processes))


@main.command()
@click.pass_obj
def longer(processes: int) -> None:
    """Train with some methods of a task for more steps than `compare`."""
    p = section(PARAMS, LongerParams, "longer")
    trials = [
        trial
        for method in p.methods
        for trial in _trials(p.task, method, p.seeds, rate=p.rate, steps=p.steps, refresh=p.refresh)
    ]
    _write(f"{p.task}-longer", side_by_side(trials, processes))


@main.command()
@click.pass_obj
def stale(processes: int) -> None:
    """Train on the stories and in other stores of them, with newer and older completions."""
    p = section(PARAMS, StaleParams, "stale")
    trials = [
        trial
        for grid in p.grids
        for name, method, refresh, uses in product(grid.projects, grid.methods, grid.refresh, grid.uses)
        for trial in _trials("stories", method, p.seeds, name, refresh=refresh, uses=uses)
    ]
    _write("stories-stale", side_by_side(trials, processes))


@main.command()
def tables() -> None:
    """Write the tables and figures of every task from the rows."""
    document = read_yaml(PARAMS)
    for task in document["tasks"]:
        write_tables(task, read_task(task), _rows(task), document["baseline"], _TABLES)


def _rows(task: str) -> dict[str, list[Row]]:
    """Return the rows of a task by command, as far as there are files."""
    files = {path.stem.removeprefix(f"{task}-"): path for path in sorted(_ROWS.glob(f"{task}-*.json"))}
    return {command: read_json(path)["rows"] for command, path in files.items()}


def _of_method(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _trials(
    task: str, method: str, seeds: Sequence[int], name: str | None = None, rate: float | None = None, **schedule: int
) -> list[Callable[[], Row]]:
    """Return the runs of a method from the starts of some seeds.

    Args:
        task: The task that the starts belong to.
        method: The method.
        seeds: The seeds.
        name: Another project with the same prompts; default: the task's.
        rate: The learning rate; default: the best one of the task's tuning.
        schedule: What differs in the schedule.
    """
    p = read_task(task)
    rate = rate or p.best_rate(_of_method(_rows(task)["tune"], method))
    return [
        partial(runs.run_method, name or task, p, method, rate, seed, runs.train_start(task, p.start, seed), **schedule)
        for seed in seeds
    ]


def _write(name: str, rows: list[Row]) -> None:
    _ROWS.mkdir(exist_ok=True)
    write_json(_ROWS / f"{name}.json", rows)
