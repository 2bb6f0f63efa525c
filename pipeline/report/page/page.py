"""report/index.html of one run, and the page that compares several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.lineage.describe import Costs
from pipeline.lineage.records import Lineage
from pipeline.report.metric_titles import measure
from pipeline.report.page import heatmap, quality
from pipeline.report.page.costs import compared_costs, ledger
from pipeline.report.page.html import document
from pipeline.report.page.lineage import origins
from pipeline.report.page.queries import ViewRows
from pipeline.report.page.scores import scores
from pipeline.report.page.training import training

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """The content of a run's page."""

    title: str
    metrics: Metrics  # the content of metrics.json
    views: ViewRows
    checkpoints: Sequence[str]  # of each student, `init` first
    lineages: Sequence[Lineage]  # of the students after their last round
    costs: Costs
    max_staleness: float | None
    params: str  # the text of params.yaml


def run_page(run: RunPage) -> str:
    """Return the page of a run."""
    students = quality.students_of({"": run.metrics})
    cases = heatmap.cases(run.views.tokens, run.views.prompts, run.checkpoints[0], run.checkpoints[-1])
    shown = heatmap.fitting(cases)
    sections = [
        quality.side_by_side(students),
        quality.headline(students),
        quality.curves(students),
        heatmap.heat_section(len(shown), len(cases)),
        training(run.views, students, max_staleness=run.max_staleness),
        quality.against_teacher_tokens(students),
        ledger(run.views.costs),
        scores(run.views),
        origins(run.lineages, run.costs, run.views.segments, run.params),
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
    key = "forward_kl"
    changes = [measure(key).show_change(student.before.get(key), student.after.get(key)) for student in students]
    words = "; ".join(
        f"{student.label}: forward KL {change}" for student, change in zip(students, changes, strict=True)
    )
    return f"{words}. Divergences in nats per token, on each student's own held-out completions."
