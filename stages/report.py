"""Gather evaluations, logs and costs into report/: the page, metrics.json, what DVC shows, and the table it prints.

The page also asks the views about prompts, rollouts and segments, which dvc.yaml does not name: whatever stage makes
one leaves its seconds in work/costs, so the report runs again whenever one was made anew.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.lineage.describe import Costs
from pipeline.lineage.lineage import read_lineage
from pipeline.report.figure import render_run
from pipeline.report.page.html import dvc_template
from pipeline.report.page.page import RunPage, run_page
from pipeline.report.page.queries import query_views
from pipeline.report.summary import key_figures, quality_curves, render_table, summarise, write_curves
from pipeline.report.views import connect, query
from pipeline.runtime.config import lookup
from pipeline.runtime.files import read_json, replacing, write_json
from pipeline.runtime.layout import COSTS, EVALUATIONS, PARAMS
from pipeline.runtime.progress import bar
from pipeline.runtime.rounds import cost_names, round_list
from pipeline.runtime.yaml_files import read_yaml
from stages._stage import run

WORK, LOGS, REPORT = Path("work"), Path("logs"), Path("report")
_NO_STORE = Path("no store: the page is about this run")


@click.command(help=__doc__)
def main() -> None:
    students, document = lookup(PARAMS, "students"), read_yaml(Path("rounds.yaml"))
    last_steps = {one["id"]: one["first_step"] + one["steps"] for one in round_list(document)}
    checkpoints = ["init", *last_steps]
    measured = {
        name: [(id_, read_json(EVALUATIONS / f"{name}-{id_}.json")["metrics"]) for id_ in checkpoints]
        for name in students
    }
    teacher, costs = read_json(EVALUATIONS / "teacher.json"), _costs(document)
    metrics = summarise(teacher["headline"], teacher["metrics"], measured, costs, last_steps)
    parts: dict[str, Callable[[], None]] = {
        "figures": lambda: _write_figures(metrics),
        "plots": lambda: _write_plots(metrics, list(last_steps)),
        "picture": lambda: _write(REPORT / "picture.svg", render_run(metrics, [0, *last_steps.values()])),
        "page": lambda: _write(REPORT / "index.html", _page(metrics, checkpoints, costs)),
    }
    with bar("report", len(parts), unit="parts") as meter:
        for name, write in parts.items():
            meter.set_postfix(now=name)
            write()
            meter.update()
    click.echo((REPORT / "table.md").read_text())


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _write_figures(metrics: Mapping[str, Any]) -> None:
    write_json(REPORT / "metrics.json", metrics)
    write_json(REPORT / "summary.json", key_figures(metrics))
    _write(REPORT / "table.md", render_table(metrics))


def _write_plots(metrics: Mapping[str, Any], rounds: list[str]) -> None:
    """What `dvc plots` reads: a file a measure, a column a student, and a template that needs no network."""
    losses: dict[str, dict[int, float]] = {name: {} for name in metrics["students"]}
    _, rows = query(connect(WORK, LOGS, _NO_STORE), "SELECT student, round, step, loss FROM runs ORDER BY step")
    for student, round_id, step, loss in rows:
        if student in losses and round_id in rounds:
            losses[student][step] = loss
    curves = quality_curves(metrics)
    shown = {"loss": losses, "task_metric": curves[metrics["headline"]]} | {
        key: curves[key] for key in ("forward_kl", "reverse_kl")
    }
    for name, curve in shown.items():
        with replacing(REPORT / "plots" / f"{name}.csv") as temporary, temporary.open("w", newline="") as file:
            write_curves(file, curve)
    _write(REPORT / "dvc_plots.html", dvc_template())


def _page(metrics: Mapping[str, Any], checkpoints: list[str], costs: Costs) -> str:
    views = connect(WORK, LOGS, _NO_STORE)
    students = list(metrics["students"])
    params, lineages = read_yaml(PARAMS), [read_lineage(WORK / name / checkpoints[-1] / "model") for name in students]
    content = RunPage(
        title=f"stillroom: {params['task']['name']}",
        metrics=metrics,
        views=query_views(partial(query, views), students, checkpoints),
        checkpoints=checkpoints,
        lineages=[lineage for lineage in lineages if lineage],
        costs=costs,
        max_staleness=params["schedule"]["max_staleness"],
        params=PARAMS.read_text(),
    )
    return run_page(content)


def _costs(document: Mapping[str, Any]) -> dict[str, Any]:
    """The costs of this schedule's stages; those of rounds that it no longer has stay out."""
    return {name: read_json(COSTS / f"{name}.json") for name in cost_names(document)}


if __name__ == "__main__":
    run(main)
