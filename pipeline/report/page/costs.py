"""Cost of a run: tokens, seconds and bytes by stage and by round, and the time that the store saved."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.page.charts import Chart, Row, bars
from pipeline.report.page.html import Section, place, section


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
    return [_line(name, group) for name, group in [*groups.items(), ("all", rows)]]


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    seconds, tokens, size = (_sum(rows, key) for key in ("seconds", "tokens", "payload_bytes"))
    positions, reused = _sum(rows, "positions"), _sum(rows, "positions_reused")
    read = (f"{tokens:,}", f"{tokens / seconds:,.0f}" if seconds else "") if tokens else ("", "")
    scored = (f"{size:,}", f"{reused:,} of {positions:,}") if positions else ("", "")
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
