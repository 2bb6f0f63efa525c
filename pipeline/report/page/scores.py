"""What the teacher said: how much of its rows the store keeps, and how flat they are."""

from collections.abc import Sequence

from pipeline.report.page.charts import ranges
from pipeline.report.page.html import Section, Specs, figure, grid, table
from pipeline.report.page.queries import Findings, Row, place

_SPREAD = {"tail": "Teacher's mass outside its entries", "entropy": "Teacher's entropy, nats"}
_HEAD = ("segment", "sequences", "positions", "entries", "the author's", "draws", "bytes", "codec", "error, nats")


def scores(found: Findings, specs: Specs) -> Section:
    """Charts of tail mass and entropy, and a line a segment."""
    figures = [_figure(key, title, found.tails, specs) for key, title in _SPREAD.items()]
    body = grid(*figures) + (_segments(found.segments) if found.segments else "")
    return Section(name="store", title="What the teacher said", body=body)


def _figure(key: str, title: str, tails: Sequence[Row], specs: Specs) -> str:
    points = [
        {"group": place(row), "series": row["source"]} | {name: row[name] for name in ("mean", "p50", "p90")}
        for row in tails
        if row["measure"] == key
    ]
    if not points:
        return ""
    specs[f"store-{key}"] = ranges(points, y_title=title)
    return figure(f"store-{key}", title, "mean; line: median to 90th percentile of the sequences")


def _segments(rows: Sequence[Row]) -> str:
    words = "Entries, the author's likely tokens, draws and bytes (index and tokens included) are means a position."
    return f"<p>{words}</p>" + table("Segments", _HEAD, [_line(row) for row in rows])


def _line(row: Row) -> list[str]:
    def each(name: str) -> str:
        return f"{row[name] / row['positions']:.1f}" if row["positions"] else ""

    error = f"{row['error_nats']:.2g}" if row["measured_positions"] else ""
    numbers = [each(name) for name in ("head_entries", "union_entries", "draws", "size_bytes")]
    return [place(row), f"{row['sequences']:,}", f"{row['positions']:,}", *numbers, row["codec"], error]
