"""Tables and figures of the questions: means over seeds with 95 % intervals, and differences paired by seed.

An interval is Student's t over seeds, each of which is another start. Parentheses hold half of it. Rows are those of
`bench.evidence.runs`.
"""

from collections.abc import Mapping, Sequence
from math import inf, nan, sqrt
from pathlib import Path
from statistics import mean, stdev

import altair as alt

from bench.output import Row
from pipeline.report.figure import COLOURS, GREY, to_svg
from pipeline.report.metric_titles import Measure, measure
from pipeline.runtime.text import markdown_table

# The 97.5 % quantiles of Student's t by degrees of freedom.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_GOAL = "nats_per_byte"
_JUDGED = {
    _GOAL: Measure(title="judge, sampled", format=".4f"),
    "nats_per_byte_greedy": Measure(title="judge, greedy", format=".4f"),
}
_COLUMNS = (
    *_JUDGED,
    "reverse_kl",
    "forward_kl",
    "entropy",
    "distinct_bigrams_at_1",
    "distinct_bigrams",
    "rouge_l_at_1",
    "rouge_l",
)
_DATA = {"off": "off-policy", "mixed": "mixed", "on": "on-policy"}
_START = "start"

Estimate = tuple[float, float]  # a value and half of its interval
Groups = Mapping[str, Sequence[Row]]  # rows by method


def title(method: str) -> str:
    """Return the name of a method in tables, such as `on-policy, JSD(0.1)`."""
    data, _, divergence = method.partition("-")
    name, _, beta = divergence.partition("-")
    return f"{_DATA[data]}, " + (f"JSD({beta})" if beta else name.replace("_kl", " KL")) if data in _DATA else method


def interval(values: Sequence[float]) -> Estimate:
    """Return the mean and half of its interval, which is infinite for a single value."""
    count = len(values)
    return mean(values), _QUANTILES[count - 1] * stdev(values) / sqrt(count) if count > 1 else inf


def paired(rows: Sequence[Row], others: Sequence[Row], key: str) -> Estimate:
    """Return the mean difference of a measure between rows and others of the same seed."""
    before = {row["seed"]: row[key] for row in others}
    return interval([row[key] - before[row["seed"]] for row in rows])


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Return the ratio of two means of the same seeds, with the linearised interval; NaN where the second mean is 0."""
    if mean(wholes) == 0:
        return nan, nan
    value = mean(parts) / mean(wholes)
    _, half = interval([part - value * whole for part, whole in zip(parts, wholes, strict=True)])
    return value, half / abs(mean(wholes))


def write_tables(rows: Sequence[Row], methods: Sequence[str], baseline: str, out: Path) -> None:
    """Write the tables and figures of the questions for every project whose rows include the baseline's."""
    out.mkdir(parents=True, exist_ok=True)
    starts = [row for row in rows if row["store"] == "exact" and row["method"] == _START]
    of_stores = [row for row in rows if "refresh" not in row]
    for store in ("exact", "truncated"):
        groups = {name: [r for r in of_stores if (r["store"], r["method"]) == (store, name)] for name in methods}
        present = {_START: starts} | {name: group for name, group in groups.items() if group}
        if baseline in present:
            _write_comparison(present, baseline, out / store)
    stale = [row for row in rows if "refresh" in row]
    if stale:
        (out / "staleness.svg").write_text(_staleness(stale, starts, out), encoding="utf-8")
    tuned = [row for row in rows if row["store"] == "validation"]
    lines = {
        f"{title(row['method'])} {row.get('rate', '')}": {key: (row[key], 0.0) for key in _COLUMNS} for row in tuned
    }
    _write(out / "tuning.md", lines)


def _write_comparison(groups: Groups, baseline: str, out: Path) -> None:
    """Write OUT-means.md, OUT-differences.md, OUT-ratios.md and OUT.svg."""
    means = {title(name): {key: interval([r[key] for r in rows]) for key in _COLUMNS} for name, rows in groups.items()}
    _write(out.with_name(f"{out.name}-means.md"), means)
    differences = {
        name: {key: paired(rows, groups[baseline], key) for key in _COLUMNS}
        for name, rows in groups.items()
        if name != baseline
    }
    of_titles = {title(name): line for name, line in differences.items()}
    _write(out.with_name(f"{out.name}-differences.md"), of_titles, sign="+")
    gains = {
        name: [before[_GOAL] - after[_GOAL] for before, after in zip(groups[_START], rows, strict=True)]
        for name, rows in groups.items()
    }
    best = max((name for name in gains if name.startswith("off-")), key=lambda name: mean(gains[name]))
    table = [["", f"gain over the start, divided by that of {title(best)}"]]
    for name, values in gains.items():
        if name.startswith("on-"):
            value, half = ratio(values, gains[best])
            table.append([title(name), f"{value:.2f} ({half:.2f})"])
    out.with_name(f"{out.name}-ratios.md").write_text(markdown_table(table) + "\n", encoding="utf-8")
    out.with_name(f"{out.name}.svg").write_text(_figure(differences, baseline), encoding="utf-8")


def _write(path: Path, lines: Mapping[str, Mapping[str, Estimate]], *, sign: str = "-") -> None:
    """Write a table with a line per method and a column per measure; the sign + shows the signs of all values."""
    kinds = {key: _JUDGED.get(key) or measure(key) for key in _COLUMNS}
    table = [["", *(kind.title for kind in kinds.values())]]
    for name, line in lines.items():
        cells = []
        for key, kind in kinds.items():
            value, half = line[key]
            cells.append(f"{value:{sign}{kind.format}}" + (f" ({kind.show(half)})" if half else ""))
        table.append([name, *cells])
    path.write_text(markdown_table(table) + "\n", encoding="utf-8")


def _figure(differences: Mapping[str, Mapping[str, Estimate]], baseline: str) -> str:
    """Return a figure as SVG: the difference from the baseline, as the judge sees it, with a line per method."""
    points = []
    for name, line in differences.items():
        value, half = line[_GOAL]
        ends = {"low": value - half, "high": value + half}
        points.append({"method": title(name), "data": name.partition("-")[0], "value": value} | ends)
    names = [point["method"] for point in points]
    colours = alt.Scale(domain=[_START, *_DATA], range=[GREY, *COLOURS[:3]])
    heading = f"judge's nats per byte of sampled completions, minus {title(baseline)}"
    base = alt.Chart(alt.Data(values=points), width=420, height=20 * len(names), title=heading).encode(
        y=alt.Y("method:N", title=None, sort=names, axis=alt.Axis(labelLimit=300)),
        color=alt.Color("data:N", legend=None, scale=colours),
    )
    marks = base.mark_point(filled=True, opacity=1).encode(x=alt.X("value:Q", title="lower is better"))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=GREY, strokeDash=[6, 4]).encode(x="value:Q")
    return to_svg(alt.layer(base.mark_rule().encode(x="low:Q", x2="high:Q"), marks, zero))


def _staleness(rows: Sequence[Row], starts: Sequence[Row], out: Path) -> str:
    """Write staleness.md, and return its figure: the gain over the start by refresh interval, a line per divergence."""
    points, table = [], [["", "steps between new completions", "uses", "gain, judge's nats per byte"]]
    for kind in dict.fromkeys((row["method"], row["refresh"], row["uses"]) for row in rows):
        group = [row for row in rows if (row["method"], row["refresh"], row["uses"]) == kind]
        change, half = paired(group, starts, _GOAL)
        name, (_, refresh, uses) = title(kind[0]).removeprefix("on-policy, "), kind
        table.append([name, str(refresh), str(uses), f"{-change:+.4f} ({half:.4f})"])
        points.append({"divergence": name, "uses": uses, "refresh": refresh, "gain": -change})
    (out / "staleness.md").write_text(markdown_table(table) + "\n", encoding="utf-8")
    base = alt.Chart(alt.Data(values=points), width=420, height=220).encode(
        x=alt.X("refresh:Q", title="steps between new completions", scale=alt.Scale(type="log")),
        y=alt.Y("gain:Q", title="gain over the start, judge's nats per byte", scale=alt.Scale(zero=False)),
        color=alt.Color("divergence:N", title=None, scale=alt.Scale(range=list(COLOURS))),
        strokeDash=alt.StrokeDash("uses:N", title="uses", legend=alt.Legend(symbolType="stroke")),
    )
    return to_svg(base.mark_line(point=True))
