"""Read the results of a run, and write its report: metrics, the table, plots for `dvc plots`, the picture, the page.

The views of the page read prompts, rollouts and segments too, which the stage `report` does not name in dvc.yaml. The
stage that makes one of these files also writes its cost, so the report runs again whenever one of them is made again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.lineage.lineage import read_lineage
from pipeline.report.figure import render_run
from pipeline.report.page.html import dvc_template
from pipeline.report.page.page import Run, run_page
from pipeline.report.summary import curves_csv, deciding_measure, key_figures, quality_curves, render_table, summarise
from pipeline.report.views import connect, query
from pipeline.runtime.atomic import replacing
from pipeline.runtime.files import json_text, read_json
from pipeline.runtime.layout import Layout, cost_names, round_list
from pipeline.runtime.progress import bar
from pipeline.runtime.yaml_files import read_yaml

_NO_STORE = Path("no store: the page is about this run")
_QUERIES = {
    "runs": "SELECT * FROM runs ORDER BY student, step",
    "costs": "SELECT * FROM costs ORDER BY student, round, stage",
    "tails": "SELECT * FROM tails ORDER BY student, round, source, measure",
    "segments": "SELECT * FROM segments ORDER BY student, round",
    "tokens": "SELECT * FROM tokens ORDER BY student, round, prompt_id, position",
    "prompts": "SELECT * FROM prompts WHERE prompt_id IN (SELECT prompt_id FROM tokens)",
}


def read_run(layout: Layout, students: Sequence[str]) -> Run:
    """Read the results of the rounds in rounds.yaml.

    Raises:
        DataError: A file is missing or not JSON.
    """
    document, params = read_yaml(layout.rounds), read_yaml(layout.params)
    last_steps = {item["id"]: item["first_step"] + item["steps"] for item in round_list(document)}
    checkpoints = ["init", *last_steps]
    costs = {name: read_json(layout.cost(name)) for name in cost_names(document)}
    names = ["teacher", *(f"{student}-{id_}" for student in students for id_ in checkpoints)]
    read = {name: read_json(layout.evaluation(name)) for name in names}
    teacher = read["teacher"]
    evaluations = {student: [(id_, read[f"{student}-{id_}"]["metrics"]) for id_ in checkpoints] for student in students}
    errors = {name: evaluation.get("errors", {}) for name, evaluation in read.items()}
    last = {student: read[f"{student}-{checkpoints[-1]}"] for student in students}
    models = [layout.round(student, checkpoints[-1]).model for student in students]
    return Run(
        title=f"stillroom: {params['task']['name']}",
        last_steps=last_steps,
        metrics=summarise(
            teacher["headline"],
            deciding_measure(params["objective"], teacher["headline"]),
            teacher["metrics"],
            evaluations,
            costs,
            last_steps,
            errors,
            changes={student: evaluation.get("changes", {}) for student, evaluation in last.items()},
            worse={student: evaluation.get("worse") for student, evaluation in last.items()},
        ),
        views=_query_views(layout, {"", *students}, {"", "corpus", *checkpoints}),
        costs=costs,
        lineages=[lineage for model in models if (lineage := read_lineage(model))],
        max_staleness=params["schedule"]["max_staleness"],
        params=layout.params.read_text(encoding="utf-8"),
    )


def _query_views(layout: Layout, students: set[str], rounds: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the views, without those of other students and rounds, which earlier schedules left."""
    connection = connect(layout.work, layout.logs, _NO_STORE)
    views = {}
    for name, sql in _QUERIES.items():
        columns, values = query(connection, sql)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        views[name] = [row for row in rows if row.get("student", "") in students and row.get("round", "") in rounds]
    return views


def write_report(layout: Layout, run: Run) -> None:
    """Write all files of report/."""
    metrics = run.metrics
    losses: dict[str, dict[int, float]] = {student: {} for student in metrics["students"]}
    for row in run.views["runs"]:
        losses[row["student"]][row["step"]] = row["loss"]
    texts: dict[str, Callable[[], str]] = {
        "metrics.json": lambda: json_text(metrics),
        "table.md": lambda: render_table(metrics),
        "plots/loss.csv": lambda: curves_csv(losses),
        "plots/task_metric.csv": lambda: curves_csv(quality_curves(metrics, metrics["headline"])),
        "plots/forward_kl.csv": lambda: curves_csv(quality_curves(metrics, "forward_kl")),
        "plots/reverse_kl.csv": lambda: curves_csv(quality_curves(metrics, "reverse_kl")),
        "dvc_plots.html": dvc_template,
        "picture.svg": lambda: render_run(metrics),
        "index.html": lambda: run_page(run),
    }
    for name, figures in key_figures(metrics).items():
        texts[f"summary/{name}.json"] = partial(json_text, figures)
    with bar("report", len(texts), unit="files") as meter:
        for name, text in texts.items():
            meter.set_postfix(now=name)
            with replacing(layout.report / name) as temporary:
                temporary.write_text(text(), encoding="utf-8")
            meter.update()
