"""Course of training: a chart per number in the logs, and a table of the rounds.

Charts of long logs are thinned to POINTS rows per student, each the mean of consecutive steps, so that the page stays
small.
"""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import Chart, Row, curve
from pipeline.report.page.html import Section, place, section
from pipeline.report.page.quality import Student

POINTS = 400
_LABELS = ("student", "round", "step")
_ASIDE = ("grad_norm", "learning_rate", "tokens", "read_tokens", "compared_tokens")  # settings rather than results
_CELLS = (("loss", ".3f"), ("last_staleness_kl", ".3g"), ("last_effective_share", ".0%"), ("own_share", ".0%"))


def training(log: Sequence[Row], students: Sequence[Student], *, max_staleness: float | None) -> Section:
    """Return a curve over steps for each number of the logs, and a table of the rounds.

    Args:
        log: Rows of the view `runs` by student and step.
        students: The students, for the rounds' planned steps.
        max_staleness: The limit that the chart of staleness shows, or None.
    """
    rows = thinned(log)
    keys = [key for key in (rows[0] if rows else {}) if key not in _LABELS and any(is_number(row[key]) for row in rows)]
    borders = sorted({row["step"] + 0.5 for student in students for row in student.checkpoints[1:-1]})
    levels = {} if max_staleness is None else {"staleness_kl": ("schedule.max_staleness", max_staleness)}
    charts = {}
    for key in keys:
        about = measure(key)
        points = [{"series": row["student"], "x": row["step"], "y": row[key]} for row in rows if is_number(row[key])]
        spec = curve(points, "optimizer steps", about, marked=False, level=levels.get(key), borders=borders)
        charts[key] = Chart(name=f"training-{key}", title=about.title, note=about.unit, spec=spec)
    # A round that took fewer steps than were planned had become too stale.
    planned = {
        (student.label, row["id"]): row["step"] - before["step"]
        for student in students
        for before, row in pairwise(student.checkpoints)
    }
    rounds = [(row, planned[at]) for row in by_round(log) if (at := (row["student"], row["round"])) in planned]
    return section(
        "training",
        "Training",
        list(charts.values()),
        main=[chart for key, chart in charts.items() if key not in _ASIDE],
        aside=[chart for key, chart in charts.items() if key in _ASIDE],
        borders=borders,
        missing=sum(steps - row["steps"] for row, steps in rounds),
        rows=[_line(row, steps) for row, steps in rounds],
    )


def _line(row: Row, planned: int) -> list[str]:
    cells = [format(row[key], form) if is_number(row.get(key)) else "" for key, form in _CELLS]
    return [place(row), f"{row['steps']} of {planned}", *cells]


def thinned(rows: Sequence[Row], points: int = POINTS) -> list[Row]:
    """Return at most `points` rows per student: means over consecutive steps, with the number of the last step."""
    means: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row["student"]):
        steps = list(group)
        size = math.ceil(len(steps) / points)
        means += [_mean(steps[start : start + size]) for start in range(0, len(steps), size)]
    return means


def by_round(rows: Sequence[Row]) -> list[Row]:
    """Return a row per student and round: the number of steps, means, and the last step's values as `last_NAME`."""
    rounds = []
    for _, group in groupby(rows, key=lambda row: (row["student"], row["round"])):
        steps = list(group)
        last = {f"last_{key}": value for key, value in steps[-1].items()}
        rounds.append(_mean(steps) | last | {"steps": len(steps)})
    return rounds


def _mean(steps: Sequence[Row]) -> Row:
    merged = dict(steps[-1])
    for key, last in merged.items():
        numbers = [row[key] for row in steps if is_number(row[key])]
        if key != "step" and numbers and not isinstance(last, str):
            merged[key] = sum(numbers) / len(numbers)
    return merged


def is_number(value: Any) -> bool:
    """Return whether a value can be drawn and averaged: a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
