"""Charts as Vega-Lite specifications, made by Altair: no colours and no widths, which the page chooses when it is open.

Series differ in shape or dashes as well as in colour, so that none is told by colour alone.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

Spec = dict[str, Any]
Point = dict[str, Any]  # series, x, y
_HEIGHT = 210


def curve(
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    marked: bool,
    form: str = ".4g",
    level: tuple[str, float] | None = None,
    borders: Sequence[float] = (),
) -> Spec:
    """Lines of y over x, one a series, with `marked` points or without; a named level, and borders between rounds."""
    tooltip = [
        alt.Tooltip("series:N", title="series"),
        alt.Tooltip("x:Q", title=x_title, format=","),
        alt.Tooltip("y:Q", title=y_title, format=form),
    ]
    base = _told(alt.Chart(_data(points)), ["series"], {x_title: ("x", ","), y_title: ("y", form)}).encode(
        x=alt.X("x:Q", title=x_title, axis=alt.Axis(tickMinStep=1, grid=False)),
        y=alt.Y("y:Q", title=None, scale=alt.Scale(zero=False), axis=_axis(form)),
        color=alt.Color("series:N", title=None, legend=_legend(points)),
        tooltip=tooltip,
    )
    layers = [_rules(borders)] if borders else []
    if marked:
        layers += [base.mark_line(), base.mark_point(filled=True, size=70, opacity=1).encode(shape=_shape())]
    else:
        layers += [base.mark_line().encode(strokeDash=alt.StrokeDash("series:N", title=None, legend=None))]
        layers += [base.mark_point(opacity=0, size=90)]  # something to hover
    if level is not None:
        layers += [_level(*level, form)]
    return _finish(alt.layer(*layers))


def bars(rows: Sequence[Point], *, x_title: str, form: str = ",.1f") -> Spec:
    """Horizontal bars, one a `group`, stacked of `series`, the largest in all first; groups in the order given."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        totals[row["series"]] += row["y"]
    ranked = sorted(totals, key=lambda one: -totals[one])
    ordered = [row | {"rank": ranked.index(row["series"])} for row in rows]
    chart = (
        _told(alt.Chart(_data(ordered)), ["group", "series"], {x_title: ("y", form)})
        .mark_bar()
        .encode(
            x=alt.X("y:Q", title=x_title, stack="zero", axis=alt.Axis(tickCount=6)),
            y=alt.Y("group:N", title=None, sort=groups),
            color=alt.Color("series:N", title=None, sort=ranked, legend=_legend(rows)),
            order="rank:Q",
            tooltip=[
                alt.Tooltip("group:N", title="where"),
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("y:Q", title=x_title, format=form),
            ],
        )
    )
    return _finish(chart, height=max(90, 24 * len(groups)))


def ranges(rows: Sequence[Point], *, y_title: str, form: str = ".3f") -> Spec:
    """For each `group` and series a mean with the span from its median to its 90th percentile."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    spread = {name: (name, form) for name in ("mean", "p50", "p90")}
    base = _told(alt.Chart(_data(rows)), ["group", "series"], spread).encode(
        x=alt.X("group:N", title=None, sort=groups, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("series:N"),
        color=alt.Color("series:N", title=None, legend=_legend(rows)),
        tooltip=[
            alt.Tooltip("group:N", title="where"),
            alt.Tooltip("series:N", title="written by"),
            *(alt.Tooltip(f"{name}:Q", format=form) for name in ("mean", "p50", "p90")),
        ],
    )
    spans = base.mark_rule(strokeWidth=3, opacity=0.5).encode(y=alt.Y("p50:Q", title=y_title), y2="p90:Q")
    return _finish(
        alt.layer(spans, base.mark_point(filled=True, size=70, opacity=1).encode(y="mean:Q", shape=_shape()))
    )


def _data(rows: Sequence[Point]) -> Any:
    return alt.Data(values=list(rows))


def _told(chart: Any, names: Sequence[str], values: Mapping[str, tuple[str, str]]) -> Any:
    """Each mark described in words, for who goes through them with the keyboard: `values` are field and format."""
    words = [f"datum.{name}" for name in names]
    words += [f"{json.dumps(f'{title} ')} + format(datum.{field}, '{form}')" for title, (field, form) in values.items()]
    return chart.transform_calculate(told=" + ', ' + ".join(words)).encode(description="told:N")


def _several(rows: Sequence[Point]) -> bool:
    return len({row["series"] for row in rows}) > 1


def _axis(form: str) -> Any:
    """Shares in per cent; other numbers as short as they are."""
    return alt.Axis(format="%") if form.endswith("%") else alt.Axis()


def _legend(rows: Sequence[Point]) -> Any:
    return alt.Legend(orient="top") if _several(rows) else None


def _shape() -> Any:
    return alt.Shape("series:N", title=None, legend=None)


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
