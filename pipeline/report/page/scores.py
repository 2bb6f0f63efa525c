"""Teacher scores: how much of the teacher's distributions the store holds, and how flat they are."""

from collections.abc import Sequence

from pipeline.report.page.charts import Chart, Row, ranges
from pipeline.report.page.html import Section, place, section

_SPREAD = {
    "tail": ("Teacher's probability outside the stored tokens", "probability"),
    "entropy": ("Teacher's entropy", "nats"),
}
_PER_POSITION = ("head_entries", "union_entries", "draws", "size_bytes")


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
    return section("store", "Teacher scores", charts, rows=[_line(row) for row in segments])


def _line(row: Row) -> list[str]:
    per_position = [f"{row[key] / row['positions']:.1f}" if row["positions"] else "" for key in _PER_POSITION]
    error = f"{row['error_nats']:.2g}" if row["measured_positions"] else ""
    return [place(row), f"{row['sequences']:,}", f"{row['positions']:,}", *per_position, row["codec"], error]
