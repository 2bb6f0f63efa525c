"""Teacher scores: how much of the teacher's distributions the store holds, and how flat they are."""

from collections.abc import Sequence

from pipeline.report.page.charts import Axis, ranges
from pipeline.report.page.html import Chart, Section, section
from pipeline.report.page.queries import Row, ViewRows, place

_SPREAD = {
    "tail": ("Teacher's probability outside the stored tokens", "probability"),
    "entropy": ("Teacher's entropy", "nats"),
}
_ENTRIES = {
    "head_entries": "top tokens",
    "union_entries": "student-support tokens",
    "draws": "tail samples",
    "size_bytes": "bytes",
}
_HEAD = ("segment", "sequences", "positions", *_ENTRIES.values(), "codec", "error, nats")


def scores(views: ViewRows) -> Section:
    """Return charts of tail probability and entropy, and a table with a row per segment."""
    charts = [_chart(key, title, unit, views.tails) for key, (title, unit) in _SPREAD.items() if views.tails]
    rows = [_line(row) for row in views.segments]
    return section("store", "Teacher scores", charts, head=_HEAD, rows=rows)


def _chart(key: str, title: str, unit: str, tails: Sequence[Row]) -> Chart:
    points = [
        {"group": place(row), "series": row["source"]} | {name: row[name] for name in ("mean", "p50", "p90")}
        for row in tails
        if row["measure"] == key
    ]
    note = "mean; line: median to 90th percentile of the sequences"
    return Chart(name=f"store-{key}", title=title, note=note, spec=ranges(points, Axis(unit, ".3f")))


def _line(row: Row) -> list[str]:
    per_position = [f"{row[key] / row['positions']:.1f}" if row["positions"] else "" for key in _ENTRIES]
    error = f"{row['error_nats']:.2g}" if row["measured_positions"] else ""
    return [place(row), f"{row['sequences']:,}", f"{row['positions']:,}", *per_position, row["codec"], error]
