"""The picture of `bench.end_to_end.methods`: a dot a seed and a bar at their mean, a panel a measure, a line at
the teacher's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from pipeline.report.metric_titles import measure


def draw(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], teacher: Mapping[str, float]) -> None:
    """An SVG, the same bytes for the same rows."""
    ways = list(dict.fromkeys(one["name"] for one in rows))
    with mpl.rc_context({"svg.hashsalt": "stillroom", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(2.1 * len(columns) + 1.4, 0.3 * len(ways) + 0.9), layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, key in zip(panels, columns, strict=True):
            for place, way in enumerate(ways):
                values = [one[key] for one in rows if one["name"] == way]
                axes.plot(values, [place] * len(values), "o", color="#0072b2", alpha=0.6, markersize=4)
                axes.plot([mean(values)], [place], "|", color="#d55e00", markersize=14, markeredgewidth=2)
            if key in teacher:
                axes.axvline(teacher[key], color="#555555", linestyle="--")
            axes.set_title(measure(key).title, fontsize=9)
            axes.grid(alpha=0.3, axis="x")
        panels[0].set_yticks(range(len(ways)), ways)
        panels[0].invert_yaxis()
        figure.savefig(path, format="svg", metadata={"Date": None})
