"""One picture of a run: divergence and task metric against optimizer steps, one line a student.

An SVG, so that it is sharp in a README and the same bytes for the same numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.metric_titles import measure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by all


def draw_run(path: Path, metrics: Mapping[str, Any], steps: Sequence[int]) -> None:
    """Draw metrics.json; `steps` are those of the checkpoints, 0 first."""
    score = metrics["headline"]
    with mpl.rc_context({"svg.hashsalt": "stillroom", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, (name, student) in zip(_COLOURS * 9, metrics["students"].items(), strict=False):
            checkpoints = [student["before"], *student["rounds"]]
            for axes, key in ((left, "forward_kl"), (right, score)):
                values = [one[key] for one in checkpoints]
                axes.plot(steps, values, marker="o", color=colour, label=f"student {name}")
        right.axhline(metrics["teacher"][score], color="#555555", linestyle="--", label="teacher")
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter("{x:g}")
        _finish(left, "forward KL to the teacher (nats per token)", steps)
        _finish(right, measure(score).title, steps)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _finish(axes: Axes, title: str, steps: Sequence[int]) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("optimizer steps (a mark: a refresh)")
    axes.set_xticks(list(steps))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
