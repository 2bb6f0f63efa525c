"""report/index.html of one run, and the page that compares several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.lineage.describe import Costs
from pipeline.lineage.records import Lineage
from pipeline.report.metric_titles import measure
from pipeline.report.page import heatmap, quality
from pipeline.report.page.charts import Row
from pipeline.report.page.html import document, section
from pipeline.report.page.sections import compared_costs, ledger, origins, scores, training
from pipeline.report.significance import warnings_of
from pipeline.report.summary import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The results of a run, which its report is about."""

    title: str
    last_steps: Mapping[str, int]  # The number of the last step of each round, counted from 1
    metrics: Metrics  # The content of metrics.json
    # Rows of the SQL views by the name of the view, without what earlier schedules left.
    views: Mapping[str, Sequence[Row]]
    # The costs of the stages in rounds.yaml by name; files of earlier schedules are left out.
    costs: Costs
    lineages: Sequence[Lineage]  # The lineages of the students after their last round
    max_staleness: float | None
    params: str  # The text of params.yaml


def run_page(run: Run) -> str:
    """Return the page of a run."""
    students, views, last = quality.students_of({"": run.metrics}), run.views, ["init", *run.last_steps][-1]
    cases = heatmap.cases(views["tokens"], views["prompts"], "init", last)
    shown = heatmap.fitting(cases)
    sections = [
        section("warnings", "Warnings", warnings=warnings_of(run.metrics)),
        quality.side_by_side(students),
        quality.headline(students),
        quality.curves(students),
        heatmap.heat_section(len(shown), len(cases)),
        training(views["runs"], students, max_staleness=run.max_staleness),
        quality.against_teacher_tokens(students),
        ledger(views["costs"]),
        scores(views["tails"], views["segments"]),
        origins(run.lineages, run.costs, views["segments"], run.params),
    ]
    return document(run.title, _lead(students), sections, shown)


def comparison_page(runs: Mapping[str, Metrics]) -> str:
    """Return one page about several runs, each by its label."""
    students = quality.students_of(runs)
    sections = [
        quality.side_by_side(students),
        quality.curves(students),
        quality.headline(students),
        quality.against_teacher_tokens(students),
        compared_costs(runs),
    ]
    return document("stillroom: runs compared", ", ".join(runs), sections, [])


def _lead(students: Sequence[quality.Student]) -> str:
    about = measure("forward_kl")
    changes = [f"{student.label}: forward KL {about.show_change(*student.ends('forward_kl'))}" for student in students]
    return f"{'; '.join(changes)}. Divergences in nats per token, on each student's own held-out completions."
