"""Read the results of a run, and write its report: metrics, the table, plots for `dvc plots`, the picture, the page.

The views of the page read prompts, rollouts and segments too, which the stage `report` does not name in dvc.yaml. The
stage that makes one of these files also writes its cost, so the report runs again whenever one of them is made again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.lineage.describe import Costs
from pipeline.lineage.lineage import read_lineage
from pipeline.report.figure import render_run
from pipeline.report.page.html import dvc_template
from pipeline.report.page.page import RunPage, run_page
from pipeline.report.page.queries import query_views
from pipeline.report.summary import key_figures, quality_curves, render_table, summarise, write_curves
from pipeline.report.views import connect, query
from pipeline.runtime.atomic import replacing
from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.progress import bar
from pipeline.runtime.rounds import cost_names, round_list
from pipeline.runtime.yaml_files import read_yaml

_NO_STORE = Path("no store: the page is about this run")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The results of a run."""

    layout: Layout
    students: Sequence[str]
    last_steps: Mapping[str, int]
    """The number of the last step of each round, counted from 1."""
    costs: Costs
    """The costs of the stages in rounds.yaml by name; files of earlier schedules are left out."""
    metrics: dict[str, Any]
    """The content of metrics.json."""

    @classmethod
    def read(cls, layout: Layout, students: Sequence[str]) -> "RunReport":
        """Read the evaluations and the costs of the rounds in rounds.yaml.

        Raises:
            DataError: A file is missing or not JSON.
        """
        document = read_yaml(layout.rounds)
        last_steps = {item["id"]: item["first_step"] + item["steps"] for item in round_list(document)}
        ids = ("init", *last_steps)
        costs = {name: read_json(layout.cost(name)) for name in cost_names(document)}
        checkpoints = {
            student: [(id_, read_json(layout.evaluation(f"{student}-{id_}"))["metrics"]) for id_ in ids]
            for student in students
        }
        teacher = read_json(layout.evaluation("teacher"))
        metrics = summarise(teacher["headline"], teacher["metrics"], checkpoints, costs, last_steps)
        return cls(layout=layout, students=students, last_steps=last_steps, costs=costs, metrics=metrics)

    def write(self) -> None:
        """Write all files of report/."""
        parts: dict[str, Callable[[], None]] = {
            "figures": self._write_figures,
            "plots": self._write_plots,
            "picture": lambda: self._write("picture.svg", render_run(self.metrics, [0, *self.last_steps.values()])),
            "page": lambda: self._write("index.html", self._page()),
        }
        with bar("report", len(parts), unit="parts") as meter:
            for name, write in parts.items():
                meter.set_postfix(now=name)
                write()
                meter.update()

    def _write(self, name: str, text: str) -> None:
        with replacing(self.layout.report / name) as temporary:
            temporary.write_text(text)

    def _write_figures(self) -> None:
        write_json(self.layout.report / "metrics.json", self.metrics)
        write_json(self.layout.report / "summary.json", key_figures(self.metrics))
        self._write("table.md", render_table(self.metrics))

    def _write_plots(self) -> None:
        """Write what `dvc plots` reads: a file per measure with a column per student, and an offline template."""
        losses: dict[str, dict[int, float]] = {student: {} for student in self.students}
        _, rows = self._open_views()("SELECT student, round, step, loss FROM runs ORDER BY step")
        for student, round_id, step, loss in rows:
            if student in losses and round_id in self.last_steps:
                losses[student][step] = loss
        quality = quality_curves(self.metrics)
        plots = {"loss": losses, "task_metric": quality[self.metrics["headline"]]}
        plots |= {name: quality[name] for name in ("forward_kl", "reverse_kl")}
        for name, curves in plots.items():
            path = self.layout.report / "plots" / f"{name}.csv"
            with replacing(path) as temporary, temporary.open("w", newline="") as file:
                write_curves(file, curves)
        self._write("dvc_plots.html", dvc_template())

    def _page(self) -> str:
        params, checkpoints = read_yaml(self.layout.params), ["init", *self.last_steps]
        models = [self.layout.round(student, checkpoints[-1]).model for student in self.students]
        content = RunPage(
            title=f"stillroom: {params['task']['name']}",
            metrics=self.metrics,
            views=query_views(self._open_views(), self.students, checkpoints),
            checkpoints=checkpoints,
            lineages=[lineage for model in models if (lineage := read_lineage(model))],
            costs=self.costs,
            max_staleness=params["schedule"]["max_staleness"],
            params=self.layout.params.read_text(),
        )
        return run_page(content)

    def _open_views(self) -> Callable[[str], tuple[list[str], list[tuple[Any, ...]]]]:
        """Return a function that runs SQL over the files of the run."""
        return partial(query, connect(self.layout.work, self.layout.logs, _NO_STORE))
