"""What a run cost: tokens, seconds and bytes by stage and round, and what the store saved."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.page.charts import bars
from pipeline.report.page.html import Section, Specs, details, figure, table, text
from pipeline.report.page.queries import Row, place

_COLUMNS = ("runs", "seconds", "tokens", "tokens/s", "bytes", "positions from the store")


def ledger(rows: Sequence[Row], specs: Specs) -> Section:
    """By stage and by round, of the view costs; adds a chart to `specs`."""
    if not rows:
        return Section(name="costs", title="Cost", body="")
    points = [{"group": _place(row), "series": row["stage"], "y": row["seconds"]} for row in _ordered(rows)]
    specs["costs-by-round"] = bars(points, x_title="seconds")
    body = (
        f"<p>{text(_words(rows))}</p>"
        + figure("costs-by-round", "Seconds by round and stage")
        + table("Cost by stage", ["stage", *_COLUMNS], _grouped(rows, lambda row: str(row["stage"])))
        + details("By round", table("Cost by round", ["round", *_COLUMNS], _grouped(_ordered(rows), _place)))
    )
    return Section(name="costs", title="Cost", body=body)


def compared_costs(runs: Mapping[str, Mapping[str, Any]], specs: Specs) -> Section:
    """Stages of several runs side by side, from their metrics.json; adds a chart to `specs`."""
    points = [
        {"group": run, "series": stage, "y": one["seconds"]}
        for run, metrics in runs.items()
        for stage, one in metrics["cost"].items()
    ]
    specs["costs-by-run"] = bars(points, x_title="seconds")
    head = ["run", "seconds", "tokens", "scored positions", "bytes a position", "from the store"]
    rows = [_run_row(run, metrics) for run, metrics in runs.items()]
    body = figure("costs-by-run", "Seconds by run and stage") + table("Cost by run", head, rows)
    return Section(name="costs", title="Cost", body=body)


def _run_row(run: str, metrics: Mapping[str, Any]) -> list[str]:
    stages, store = metrics["cost"].values(), metrics["store"]
    return [
        run,
        f"{sum(one['seconds'] for one in stages):,.0f}",
        f"{sum(one['tokens'] for one in stages):,}",
        f"{store['positions']:,}",
        f"{store['bytes_per_position']:.1f}",
        f"{store['reused_share']:.1%}",
    ]


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """What students share first."""
    return sorted(rows, key=lambda row: (row["student"], row["round"] not in {"", "init"}, row["round"] != "corpus"))


def _place(row: Row) -> str:
    return place(row) or "once"


def _grouped(rows: Sequence[Row], name_of: Any) -> list[list[str]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[name_of(row)].append(row)
    return [_line(name, group) for name, group in groups.items()] + [_line("all", rows)]


def _line(name: str, rows: Sequence[Row]) -> list[str]:
    seconds, tokens = (sum(row[key] or 0 for row in rows) for key in ("seconds", "tokens"))
    size, known, reused = (
        sum(row[key] or 0 for row in rows) for key in ("payload_bytes", "positions", "positions_reused")
    )
    read = (f"{tokens:,}", f"{tokens / seconds:,.0f}" if seconds else "") if tokens else ("", "")
    scored = (f"{size:,}", f"{reused:,} of {known:,}") if known else ("", "")
    return [name, f"{len(rows)}", f"{seconds:,.1f}", *read, *scored]


def _words(rows: Sequence[Row]) -> str:
    seconds = sum(row["seconds"] for row in rows)
    scored = [row for row in rows if row["positions"]]
    positions, reused = (sum(row[key] or 0 for row in scored) for key in ("positions", "positions_reused"))
    words = f"{_duration(seconds)} inside the stages."
    if not positions:
        return words
    words += f" The teacher's scores of {positions:,} positions went into it, of which {reused:,} came from the store"
    asked, spent = positions - reused, sum(row["seconds"] for row in scored)
    if reused and asked:
        words += f", which at this run's rate saved about {_duration(spent / asked * reused)} of the teacher's time"
    return words + "."


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
