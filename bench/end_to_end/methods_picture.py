"""The picture of `bench.end_to_end.methods`: one panel per measure, one row per method.

Each dot is a seed, each bar is the mean of a method's seeds, and the dashed line is the teacher. The same rows always
give the same SVG.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from pipeline.report.figure import COLOURS, GREY, to_svg
from pipeline.report.metric_titles import measure


def render_methods(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], teacher: Mapping[str, float]) -> str:
    """Return the picture as SVG.

    Args:
        rows: One row per method and seed, with the `name` of the method and the value of each measure.
        columns: Keys of the measures, one panel each.
        teacher: The teacher's measures; a panel without one has no dashed line.
    """
    panels = [_panel(rows, key, teacher.get(key), labels=key == columns[0]) for key in columns]
    return to_svg(alt.hconcat(*panels))


def _panel(rows: Sequence[Mapping[str, Any]], key: str, teacher: float | None, *, labels: bool) -> Any:
    methods = list(dict.fromkeys(row["name"] for row in rows))
    points = alt.Data(values=[{"method": row["name"], "value": row[key]} for row in rows])
    axis = alt.Axis(labelLimit=400) if labels else None
    base = alt.Chart(points, width=150, height=22 * len(methods), title=measure(key).title).encode(
        x=alt.X("value:Q", title=None, scale=alt.Scale(zero=False, padding=8)),
        y=alt.Y("method:N", title=None, sort=methods, axis=axis),
    )
    seeds = base.mark_point(filled=True, color=COLOURS[0], opacity=0.6)
    means = base.mark_tick(color=COLOURS[1], thickness=2, size=14).encode(x="mean(value):Q")
    layers = [seeds, means]
    if teacher is not None:
        line = alt.Chart(alt.Data(values=[{"value": teacher}])).mark_rule(color=GREY, strokeDash=[6, 4])
        layers.append(line.encode(x="value:Q"))
    return alt.layer(*layers)
