"""One picture of a run: forward KL and the task's metric over optimizer steps, one line per student.

The picture is an SVG, so that it is sharp in a README, and the same metrics always give the same bytes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from pipeline.report.metric_titles import measure
from pipeline.report.summary import Metrics, checkpoints

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # of Okabe and Ito: safe for colour-blind
GREY = "#555555"
_TEACHER = "teacher"


def render_run(metrics: Metrics) -> str:
    """Return the picture of metrics.json as SVG."""
    score = metrics["headline"]
    distances = [point for point in _points(metrics, "forward_kl") if point["value"] > 0]
    scores = _points(metrics, score)
    steps = sorted({row["step"] for student in metrics["students"].values() for row in checkpoints(student)})
    scores += [{"model": _TEACHER, "step": step, "value": metrics["teacher"][score]} for step in (steps[0], steps[-1])]
    left = _panel(distances, steps, "log").properties(title="forward KL to the teacher (nats per token)")
    right = _panel(scores, steps, "linear").properties(title=measure(score).title)
    return to_svg(alt.hconcat(left, right).resolve_scale(color="shared", strokeDash="shared"))


def to_svg(chart: Any) -> str:
    """Render an Altair chart without a browser or a network."""
    # Margins hold labels that are wider in the reader's font than in the one that vl-convert measures.
    chart = chart.configure(background="white", font="Arial, Helvetica, sans-serif", padding=16)
    svg: str = vl_convert.vegalite_to_svg(chart.configure_axis(titleFontWeight="normal").to_dict())
    return svg


def _points(metrics: Metrics, key: str) -> list[dict[str, Any]]:
    known = metrics.get("errors", {})
    return [
        {"model": f"student {name}", "step": row["step"], "value": row[key]}
        | _span(row[key], known.get(name, {}).get(row["id"], {}).get(key, 0.0))
        for name, student in metrics["students"].items()
        for row in checkpoints(student)
        if math.isfinite(row[key])
    ]


def _span(value: float, error: float) -> dict[str, float]:
    """Return the ends of an error bar; the lower one stays above 0, because a scale may be logarithmic."""
    return {"low": max(value - error, value / 10), "high": value + error}


def _panel(points: Sequence[Mapping[str, Any]], steps: Sequence[int], scale: str) -> Any:
    """Draw solid lines with a mark and a standard error at each checkpoint, and the teacher as a dashed line."""
    students = list(dict.fromkeys(point["model"] for point in points if point["model"] != _TEACHER))
    models = [*students, _TEACHER]
    colours = [*(COLOURS[index % len(COLOURS)] for index in range(len(students))), GREY]
    legend = alt.Legend(symbolType="stroke", symbolSize=300, symbolStrokeWidth=2)
    dashes = [*([1, 0] for _ in students), [6, 4]]
    y_scale = alt.Scale(type=scale, zero=False, nice=False, padding=8)
    base = alt.Chart(alt.Data(values=list(points)), width=300, height=180).encode(
        x=alt.X("step:Q", title="optimizer steps (one mark per round)", axis=alt.Axis(values=list(steps))),
        y=alt.Y("value:Q", title=None, scale=y_scale, axis=alt.Axis(format="~g")),
        color=alt.Color("model:N", title=None, scale=alt.Scale(domain=models, range=colours), legend=legend),
        strokeDash=alt.StrokeDash("model:N", title=None, scale=alt.Scale(domain=models, range=dashes)),
    )
    marks = base.mark_point(filled=True, opacity=1).transform_filter(alt.datum.model != _TEACHER)
    spans = base.mark_rule(opacity=0.6).transform_filter(alt.datum.model != _TEACHER)
    return alt.layer(base.mark_line(), marks, spans.encode(y="low:Q", y2="high:Q", strokeDash=alt.value([1, 0])))
