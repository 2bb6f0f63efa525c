"""report/index.html of one run, and the page that compares several."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.lineage.describe import Costs
from pipeline.lineage.records import Lineage
from pipeline.report.metric_titles import measure
from pipeline.report.page import heatmap, quality
from pipeline.report.page.costs import compared_costs, ledger
from pipeline.report.page.html import Specs, document
from pipeline.report.page.lineage import origins
from pipeline.report.page.queries import Findings
from pipeline.report.page.scores import scores
from pipeline.report.page.training import training

Metrics = Mapping[str, Any]


def run_page(
    metrics: Metrics,
    found: Findings,
    *,
    checkpoints: Sequence[str],
    title: str,
    lineages: Sequence[Lineage],
    costs: Costs,
    max_staleness: float | None,
    params: str,
) -> str:
    """The page of a run; `lineages` are the students' after their last round, `params` is the text of params.yaml."""
    specs: Specs = {}
    students = quality.students_of({"": metrics})
    cases = heatmap.cases(found.tokens, found.prompts, checkpoints[0], checkpoints[-1])
    shown = heatmap.fitting(cases)
    sections = [
        quality.side_by_side(students),
        quality.headline(students),
        quality.curves(students, specs),
        heatmap.heat_section(len(shown), len(cases)),
        training(found, students, specs, max_staleness=max_staleness),
        quality.against_teacher_tokens(students, specs),
        ledger(found.costs, specs),
        scores(found, specs),
        origins(lineages, costs, found.segments, params),
    ]
    return document(title, _lead(metrics), sections, specs, shown)


def comparison_page(runs: Mapping[str, Metrics]) -> str:
    """Several runs, each by its label, in one page."""
    specs: Specs = {}
    students = quality.students_of(runs)
    sections = [
        quality.side_by_side(students),
        quality.curves(students, specs),
        quality.headline(students),
        quality.against_teacher_tokens(students, specs),
        compared_costs(runs, specs),
    ]
    return document("stillroom: runs compared", ", ".join(runs), sections, specs, [])


def _lead(metrics: Metrics) -> str:
    first = [f"{name}: forward KL {_way(one, 'forward_kl')}" for name, one in metrics["students"].items()]
    return "; ".join(first) + ". Divergences in nats a token, on each student's own held-out completions."


def _way(student: Metrics, key: str) -> str:
    of = measure(key)
    return f"{of.show(student['before'].get(key))} → {of.show(student['after'].get(key))}"
