"""Charts as Vega-Lite specifications, built with Altair; the page chooses colours and widths when it is open.

Series differ in shape or dashes as well as in colour, so that no reader has to rely on colour alone.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

Spec = dict[str, Any]
Point = dict[str, Any]  # series, x, y
_HEIGHT = 210
_SPREAD = ("mean", "p50", "p90")


@dataclass(frozen=True, slots=True)
class Axis:
    """The title of an axis and the format of its values."""

    title: str
    format: str = ".4g"


def curve(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    marked: bool,
    level: tuple[str, float] | None = None,
    borders: Sequence[float] = (),
) -> Spec:
    """Return lines of y over x, one per series.

    Args:
        points: Records with `series`, `x` and `y`.
        x: The horizontal axis.
        y: The vertical axis, whose title appears in tooltips only.
        marked: Whether each point has a visible mark.
        level: Name and value of a horizontal line.
        borders: Values of x with a vertical line.
    """
    chart = _described(alt.Chart(_data(points)), ["series"], {x.title: ("x", x.format), y.title: ("y", y.format)})
    base = chart.encode(
        x=alt.X("x:Q", title=x.title, axis=alt.Axis(tickMinStep=1, grid=False)),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=_axis(y.format)),
        color=alt.Color("series:N", title=None, legend=_legend(points)),
        tooltip=[
            alt.Tooltip("series:N", title="series"),
            alt.Tooltip("x:Q", title=x.title, format=x.format),
            alt.Tooltip("y:Q", title=y.title, format=y.format),
        ],
    )
    layers = [_rules(borders)] if borders else []
    if marked:
        layers += [base.mark_line(), _points(base)]
    else:
        layers += [base.mark_line().encode(strokeDash=alt.StrokeDash("series:N", title=None, legend=None))]
        layers += [base.mark_point(opacity=0, size=90)]  # invisible targets for the pointer
    if level is not None:
        layers += [_level(*level, y.format)]
    return _finish(alt.layer(*layers))


def bars(rows: Sequence[Point], x: Axis) -> Spec:
    """Return horizontal bars, one per `group` in the order of the rows, stacked by `series` with the largest first."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["series"]] += row["y"]
    ranked = sorted(totals, key=lambda series: -totals[series])
    ordered = [row | {"rank": ranked.index(row["series"])} for row in rows]
    base = _described(alt.Chart(_data(ordered)), ["group", "series"], {x.title: ("y", x.format)})
    chart = base.mark_bar().encode(
        x=alt.X("y:Q", title=x.title, stack="zero", axis=alt.Axis(tickCount=6)),
        y=alt.Y("group:N", title=None, sort=groups),
        color=alt.Color("series:N", title=None, sort=ranked, legend=_legend(rows)),
        order="rank:Q",
        tooltip=[
            alt.Tooltip("group:N", title="where"),
            alt.Tooltip("series:N", title="what"),
            alt.Tooltip("y:Q", title=x.title, format=x.format),
        ],
    )
    return _finish(chart, height=max(90, 24 * len(groups)))


def ranges(rows: Sequence[Point], y: Axis) -> Spec:
    """Return, for each `group` and series, a mark at the mean and a span from the median to the 90th percentile."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    chart = _described(alt.Chart(_data(rows)), ["group", "series"], {name: (name, y.format) for name in _SPREAD})
    base = chart.encode(
        x=alt.X("group:N", title=None, sort=groups, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("series:N"),
        color=alt.Color("series:N", title=None, legend=_legend(rows)),
        tooltip=[
            alt.Tooltip("group:N", title="where"),
            alt.Tooltip("series:N", title="written by"),
            *(alt.Tooltip(f"{name}:Q", format=y.format) for name in _SPREAD),
        ],
    )
    spans = base.mark_rule(strokeWidth=3, opacity=0.5).encode(y=alt.Y("p50:Q", title=y.title), y2="p90:Q")
    return _finish(alt.layer(spans, _points(base).encode(y="mean:Q")))


def _data(rows: Sequence[Point]) -> Any:
    return alt.Data(values=list(rows))


def _described(chart: Any, names: Sequence[str], values: Mapping[str, tuple[str, str]]) -> Any:
    """Describe each mark in words, for readers who go through the marks with the keyboard.

    Args:
        chart: The chart.
        names: Fields whose text the words begin with.
        values: Title -> field and format of the values that follow.
    """
    words = [f"datum.{name}" for name in names]
    words += [f"{json.dumps(f'{title} ')} + format(datum.{field}, '{form}')" for title, (field, form) in values.items()]
    return chart.transform_calculate(words=" + ', ' + ".join(words)).encode(description="words:N")


def _axis(form: str) -> Any:
    """Return an axis with per cent for shares, and with the shortest form of other numbers."""
    return alt.Axis(format="%") if form.endswith("%") else alt.Axis()


def _legend(rows: Sequence[Point]) -> Any:
    return alt.Legend(orient="top") if len({row["series"] for row in rows}) > 1 else None


def _points(base: Any) -> Any:
    shape = alt.Shape("series:N", title=None, legend=None)
    return base.mark_point(filled=True, size=70, opacity=1).encode(shape=shape)


def _rules(values: Sequence[float]) -> Any:
    rules = alt.Chart(_data([{"at": value} for value in values])).mark_rule(strokeDash=[2, 4], opacity=0.6)
    return rules.encode(x="at:Q")


def _level(name: str, value: float, form: str) -> Any:
    line = alt.Chart(_data([{"at": value, "name": f"{name} {value:{form}}"}])).encode(y="at:Q", tooltip="name:N")
    words = line.mark_text(align="left", dx=4, dy=-6, x=0).encode(text="name:N")
    return alt.layer(line.mark_rule(strokeDash=[6, 4], strokeWidth=1.5), words)


def _finish(chart: Any, *, height: int = _HEIGHT) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    return spec
