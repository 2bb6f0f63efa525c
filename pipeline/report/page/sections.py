"""Sections of the page: training, costs, teacher scores, and where the students come from.

Charts of long logs are thinned to POINTS rows per student, each the mean of consecutive steps, so that the page stays
small.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from pipeline.lineage.describe import Costs, describe_runs
from pipeline.lineage.lineage import last_warning
from pipeline.lineage.records import Lineage
from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import Chart, Row, bars, curve, ranges
from pipeline.report.page.html import Section, place, section
from pipeline.report.page.quality import Student
from pipeline.runtime.text import short, size_text

POINTS = 400
_LABELS = ("student", "round", "step")
_ASIDE = ("grad_norm", "learning_rate", "tokens", "read_tokens", "compared_tokens")  # settings rather than results
_CELLS = (("loss", ".3f"), ("last_staleness_kl", ".3g"), ("last_effective_share", ".0%"), ("own_share", ".0%"))
_FINGERPRINTS, _SETTINGS = ("teacher", "tokenizer", "scorer"), ("engine", "dtype", "codec")
_SPREAD = {
    "tail": ("Teacher's probability outside the stored tokens", "probability"),
    "entropy": ("Teacher's entropy", "nats"),
}
_PER_POSITION = ("head_entries", "union_entries", "draws", "size_bytes")


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
        rows=[_round_row(row, steps) for row, steps in rounds],
    )


def _round_row(row: Row, planned: int) -> list[str]:
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


def ledger(costs: Sequence[Row]) -> Section:
    """Return the costs by stage and by round, from the view `costs`; empty without costs."""
    # What all students share comes first.
    costs = sorted(costs, key=lambda row: (row["student"], row["round"] not in {"", "init"}, row["round"] != "corpus"))
    rows = [row | {"group": place(row) or "once", "series": row["stage"], "y": row["seconds"]} for row in costs]
    charts = [Chart(name="costs-by-round", title="Seconds by round and stage", spec=bars(rows))] if rows else []
    stages, rounds = _grouped(rows, "stage"), _grouped(rows, "group")
    return section("costs", "Cost", charts, stages=stages, rounds=rounds, **_savings(rows))


def compared_costs(runs: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return the costs of several runs side by side, from their metrics.json."""
    points = [
        {"group": run, "series": stage, "y": cost["seconds"]}
        for run, metrics in runs.items()
        for stage, cost in metrics["cost"].items()
    ]
    chart = Chart(name="costs-by-run", title="Seconds by run and stage", spec=bars(points))
    rows = [_run_row(run, metrics) for run, metrics in runs.items()]
    return section("costs", "Cost", [chart], template="compared-costs", rows=rows)


def _run_row(run: str, metrics: Mapping[str, Any]) -> list[str]:
    stages, store = metrics["cost"].values(), metrics["store"]
    return [
        run,
        f"{sum(stage['seconds'] for stage in stages):,.0f}",
        f"{sum(stage['tokens'] for stage in stages):,}",
        f"{store['positions']:,}",
        f"{store['bytes_per_position']:.1f}",
        f"{store['reused_share']:.1%}",
    ]


def _grouped(rows: Sequence[Row], key: str) -> list[list[str]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return [_cost_row(name, group) for name, group in [*groups.items(), ("all", rows)]]


def _cost_row(name: str, rows: Sequence[Row]) -> list[str]:
    seconds, tokens, size = (_sum(rows, key) for key in ("seconds", "tokens", "payload_bytes"))
    positions, reused = _sum(rows, "positions"), _sum(rows, "positions_reused")
    read = (f"{tokens:,}", f"{tokens / seconds:,.0f}" if seconds else "") if tokens else ("", "")
    scored = (size_text(size), f"{reused:,} of {positions:,}") if positions else ("", "")
    return [name, f"{len(rows)}", f"{seconds:,.1f}", *read, *scored]


def _savings(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the time of all stages, the positions scored and reused, and the time that reuse saved; '' for none."""
    positions, reused = _sum(rows, "positions"), _sum(rows, "positions_reused")
    teacher_seconds = sum(row["seconds"] for row in rows if row["positions"])
    # A reused position saves the mean time of those that the teacher scored in this run.
    fresh = positions - reused
    saved = _duration(teacher_seconds / fresh * reused) if reused and fresh else ""
    return {"seconds": _duration(_sum(rows, "seconds")), "positions": positions, "reused": reused, "saved": saved}


def _sum(rows: Sequence[Row], key: str) -> Any:
    return sum(row[key] or 0 for row in rows)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def scores(tails: Sequence[Row], segments: Sequence[Row]) -> Section:
    """Return charts of tail probability and entropy, and a table with a row per segment.

    Args:
        tails: Rows of the view `tails`.
        segments: Rows of the view `segments`.
    """
    charts = []
    for key, (title, unit) in _SPREAD.items() if tails else ():
        rows = [row | {"group": place(row), "series": row["source"]} for row in tails if row["measure"] == key]
        note = "mean; line: median to 90th percentile of the sequences"
        charts.append(Chart(name=f"store-{key}", title=title, note=note, spec=ranges(rows, unit)))
    return section("store", "Teacher scores", charts, rows=[_segment_row(row) for row in segments])


def _segment_row(row: Row) -> list[str]:
    per_position = [f"{row[key] / row['positions']:.1f}" if row["positions"] else "" for key in _PER_POSITION]
    error = f"{row['error_nats']:.2g}" if row["measured_positions"] else ""
    return [place(row), f"{row['sequences']:,}", f"{row['positions']:,}", *per_position, row["codec"], error]


def origins(lineages: Sequence[Lineage], costs: Costs, segments: Sequence[Row], params: str) -> Section:
    """Return the history of each student, how the teacher's scores were computed, and the text of params.yaml."""
    students = [{"warning": last_warning(lineage), "runs": describe_runs(lineage, costs)} for lineage in lineages]
    scorer = _scorer(segments)
    return section("lineage", "Where it comes from", students=students, scorer=scorer, params=params)


def _scorer(segments: Sequence[Row]) -> dict[str, str]:
    """Return the distinct values of what determines the teacher's scores, fingerprints shortened."""
    values = {key: dict.fromkeys(row[key] for row in segments if row[key]) for key in _FINGERPRINTS + _SETTINGS}
    return {
        key: ", ".join(short(value) if key in _FINGERPRINTS else value for value in distinct)
        for key, distinct in values.items()
        if distinct
    }
