"""Charts as Vega-Lite specifications, built with Altair; the page chooses colours and widths when it is open.

Series differ in shape or dashes as well as in colour, so that no reader has to rely on colour alone.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from pipeline.report.metric_titles import Measure

Spec = dict[str, Any]
Row = dict[str, Any]
_HEIGHT = 210
_SPREAD = ("mean", "p50", "p90")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart with the id of its element, its title and a note (such as its unit)."""

    name: str
    title: str
    note: str = ""
    spec: Spec


def curve(
    points: Sequence[Row],
    x_title: str,
    about: Measure,
    *,
    marked: bool,
    level: tuple[str, float] | None = None,
    borders: Sequence[float] = (),
) -> Spec:
    """Return lines of a measure over a count, one per series.

    Args:
        points: Rows with `series`, `x` and `y`, and where the standard error is known `low` and `high`.
        x_title: The title of the horizontal axis.
        about: The measure; its title appears in tooltips only.
        marked: Whether each point has a visible mark.
        level: Name and value of a horizontal line.
        borders: Values of x with a vertical line.
    """
    chart = _chart(points, {"series": "series"}, {"x": (x_title, ","), "y": (about.title, about.format)})
    y_axis = alt.Axis(format="%") if about.format.endswith("%") else alt.Axis()
    base = chart.encode(
        x=alt.X("x:Q", title=x_title, axis=alt.Axis(tickMinStep=1, grid=False)),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=y_axis),
    )
    layers = []
    if borders:
        rules = _data([{"at": value} for value in borders]).mark_rule(strokeDash=[2, 4], opacity=0.6)
        layers += [rules.encode(x="at:Q")]
    if marked:
        layers += [base.mark_line(), _points(base)]
        if any("low" in point for point in points):
            layers += [base.mark_rule(opacity=0.6).encode(y="low:Q", y2="high:Q")]
    else:
        layers += [base.mark_line().encode(strokeDash=alt.StrokeDash("series:N", title=None, legend=None))]
        layers += [base.mark_point(opacity=0, size=90)]  # invisible targets for the pointer
    if level is not None:
        name, value = level
        line = _data([{"at": value, "name": f"{name} {value:{about.format}}"}]).encode(y="at:Q", tooltip="name:N")
        words = line.mark_text(align="left", dx=4, dy=-6, x=0).encode(text="name:N")
        layers += [line.mark_rule(strokeDash=[6, 4], strokeWidth=1.5), words]
    return _finish(alt.layer(*layers))


def bars(rows: Sequence[Row]) -> Spec:
    """Return horizontal bars of seconds, one per `group` in the order of the rows, the largest `series` first."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["series"]] += row["y"]
    ranked = sorted(totals, key=lambda series: -totals[series])
    ordered = [row | {"rank": ranked.index(row["series"])} for row in rows]
    base = _chart(ordered, {"group": "where", "series": "what"}, {"y": ("seconds", ",.1f")}, order=ranked)
    chart = base.mark_bar().encode(
        x=alt.X("y:Q", title="seconds", stack="zero", axis=alt.Axis(tickCount=6)),
        y=alt.Y("group:N", title=None, sort=groups),
        order="rank:Q",
    )
    return _finish(chart, height=max(90, 24 * len(groups)))


def ranges(rows: Sequence[Row], unit: str) -> Spec:
    """Return, for each `group` and series, a mark at the mean and a span from the median to the 90th percentile."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    chart = _chart(rows, {"group": "where", "series": "written by"}, {name: (name, ".3f") for name in _SPREAD})
    base = chart.encode(
        x=alt.X("group:N", title=None, sort=groups, axis=alt.Axis(labelAngle=0)), xOffset=alt.XOffset("series:N")
    )
    spans = base.mark_rule(strokeWidth=3, opacity=0.5).encode(y=alt.Y("p50:Q", title=unit), y2="p90:Q")
    return _finish(alt.layer(spans, _points(base).encode(y="mean:Q")))


def _data(rows: Sequence[Row]) -> Any:
    return alt.Chart(alt.Data(values=list(rows)))


def _chart(
    rows: Sequence[Row],
    names: Mapping[str, str],
    values: Mapping[str, tuple[str, str]],
    order: Any = alt.Undefined,
) -> Any:
    """Return a chart with a colour per series and a description of each mark.

    The description is a tooltip, and also words for readers who go through the marks with the keyboard.

    Args:
        rows: The data.
        names: Fields with texts, which come first -> their titles in the tooltip.
        values: Fields with numbers -> their titles and formats.
        order: The series in the order of their colours; by name where the order is undefined.
    """
    words = [f"datum.{field}" for field in names]
    words += [f"{json.dumps(f'{title} ')} + format(datum.{field}, '{form}')" for field, (title, form) in values.items()]
    tooltip = [alt.Tooltip(f"{field}:N", title=title) for field, title in names.items()]
    tooltip += [alt.Tooltip(f"{field}:Q", title=title, format=form) for field, (title, form) in values.items()]
    legend = alt.Legend(orient="top") if len({row["series"] for row in rows}) > 1 else None
    return (
        _data(rows)
        .transform_calculate(words=" + ', ' + ".join(words))
        .encode(
            description="words:N",
            tooltip=tooltip,
            color=alt.Color("series:N", title=None, sort=order, legend=legend),
        )
    )


def _points(base: Any) -> Any:
    shape = alt.Shape("series:N", title=None, legend=None)
    return base.mark_point(filled=True, size=70, opacity=1).encode(shape=shape)


def _finish(chart: Any, *, height: int = _HEIGHT) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    return spec
