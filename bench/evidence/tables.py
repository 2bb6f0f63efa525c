"""Tables and the figure of the questions: means over seeds with 95 % intervals, and differences paired by seed.

An interval is Student's t for the seeds, each of which is another start. Rows are those of `runs`.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import altair as alt

from bench.output import Row
from pipeline.report.figure import COLOURS, GREY, to_svg
from pipeline.report.metric_titles import Measure, measure
from pipeline.runtime.text import markdown_table

# The 97.5 % quantile of Student's t by degrees of freedom.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_COLUMNS = (
    "nats_per_byte",
    "nats_per_byte_greedy",
    "reverse_kl",
    "forward_kl",
    "entropy",
    "distinct_bigrams_at_1",
    "distinct_bigrams",
    "rouge_l_at_1",
    "rouge_l",
)
_JUDGED = {
    "nats_per_byte": Measure(title="judge, nats per byte", format=".3f"),
    "nats_per_byte_greedy": Measure(title="judge, greedy", format=".3f"),
}
_DATA = {"off": "off-policy", "mixed": "mixed", "on": "on-policy"}


def title(method: str) -> str:
    """Return the name of a method in tables, such as `on-policy, JSD(0.5)`."""
    data, _, divergence = method.partition("-")
    if data not in _DATA:
        return method
    name, _, beta = divergence.partition("-")
    return f"{_DATA[data]}, " + (f"JSD({beta})" if beta else name.replace("_kl", " KL"))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the 95 % interval; half of it is infinite for a single value."""
    count = len(values)
    half = _QUANTILES[count - 1] * stdev(values) / sqrt(count) if count > 1 else float("inf")
    return mean(values), half


def paired(rows: Sequence[Row], others: Sequence[Row], key: str) -> tuple[float, float]:
    """Return the mean difference of a measure between rows and others of the same seeds, and half its interval."""
    before = {row["seed"]: row[key] for row in others}
    return interval([row[key] - before[row["seed"]] for row in rows if row["seed"] in before])


def write_comparison(rows: Sequence[Row], methods: Sequence[str], baseline: str, out: Path) -> None:
    """Write the tables and the figure of question 1 as far as there are rows."""
    out.mkdir(parents=True, exist_ok=True)
    groups = {(row["store"], row["method"]): [] for row in rows} | {}
    for row in rows:
        groups[row["store"], row["method"]].append(row)
    for store in ("exact", "truncated"):
        present = {name: groups[store, name] for name in methods if (store, name) in groups}
        if baseline not in present:
            continue
        start = groups["exact", "start"]
        with_start = {"start": start} | present
        means = {
            name: [interval([row[key] for row in group]) for key in _COLUMNS] for name, group in with_start.items()
        }
        _write(out / f"{store}-means.md", means, rates={name: group[0].get("rate") for name, group in present.items()})
        gains = {
            name: [paired(group, present[baseline], key) for key in _COLUMNS] for name, group in with_start.items()
        }
        del gains[baseline]
        _write(out / f"{store}-differences.md", gains, signed=True)
        differences = {name: gain[:1] for name, gain in gains.items()}
        (out / f"{store}.svg").write_text(_figure(differences, baseline), encoding="utf-8")
    tuned = [row for row in rows if row["store"] == "validation" and row["method"] in ("start", baseline)]
    _write(
        out / "saturation.md",
        {f"{row['rate']:g}" if "rate" in row else "start": [(row[key], 0.0) for key in _COLUMNS] for row in tuned},
    )


def _write(
    path: Path,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    signed: bool = False,
    rates: Mapping[str, Any] | None = None,
) -> None:
    """Write a table with a line per method and a column per measure."""
    rates = rates or {}
    head = ["", *(["rate"] if rates else []), *(_measure(key).title for key in _COLUMNS)]
    table = [head]
    for name, cells in lines.items():
        shown = [_cell(_measure(key), cell, signed) for key, cell in zip(_COLUMNS, cells, strict=True)]
        table.append([title(name), *([f"{rates[name]:g}" if name in rates else ""] if rates else []), *shown])
    path.write_text(markdown_table(table) + "\n", encoding="utf-8")


def _measure(key: str) -> Measure:
    return _JUDGED.get(key) or measure(key)


def _cell(kind: Measure, cell: tuple[float, float], signed: bool) -> str:
    value, half = cell
    sign = "+" if signed and value >= 0 else ""
    return f"{sign}{kind.show(value)}" + (f" ({kind.show(half)})" if half else "")


def _figure(differences: Mapping[str, Sequence[tuple[float, float]]], baseline: str) -> str:
    """Return a figure as SVG: the judge's difference from the baseline with its interval, a line per method."""
    points = [
        {
            "method": title(name),
            "data": name.partition("-")[0],
            "value": value,
            "low": value - half,
            "high": value + half,
        }
        for name, ((value, half), *_) in differences.items()
    ]
    names = [point["method"] for point in points]
    colour = alt.Color("data:N", legend=None, scale=alt.Scale(domain=["start", *_DATA], range=[GREY, *COLOURS[:3]]))
    heading = f"judge's nats per byte at temperature 1, minus {title(baseline)} (lower is better)"
    base = alt.Chart(alt.Data(values=points), width=420, height=20 * len(names), title=heading)
    base = base.encode(y=alt.Y("method:N", title=None, sort=names, axis=alt.Axis(labelLimit=300)), color=colour)
    marks = base.mark_point(filled=True, opacity=1).encode(x=alt.X("value:Q", title=None))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=GREY, strokeDash=[6, 4]).encode(x="value:Q")
    return to_svg(alt.layer(base.mark_rule().encode(x="low:Q", x2="high:Q"), marks, zero))
