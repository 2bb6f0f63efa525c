"""Tables and figures of the questions: means over seeds with 95 % intervals, and differences paired by seed.

An interval is Student's t over seeds, each of which is another start. Parentheses hold half of it. Rows are those of
`bench.evidence.runs`.
"""

from collections.abc import Mapping, Sequence
from math import inf, nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import altair as alt

from bench.evidence.tasks import TaskParams
from bench.output import Row
from pipeline.report.figure import COLOURS, GREY, to_svg
from pipeline.report.metric_titles import Measure, measure
from pipeline.runtime.text import markdown_table

# The 97.5 % quantiles of Student's t by degrees of freedom.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_TITLES = {
    "nats_per_byte": Measure(title="judge's nats per byte, sampled", format=".4f"),
    "nats_per_byte_greedy": Measure(title="judge, greedy", format=".4f"),
    "repaired_at_1": Measure(title="after a mistake at 1", format=".1%"),
    "repaired": Measure(title="after a mistake", format=".1%"),
    "seconds_of_processor": Measure(title="processor s", format=".0f"),
}
_COLUMNS = (
    "nats_per_byte",
    "nats_per_byte_greedy",
    "exact_match_at_1",
    "exact_match",
    "repaired_at_1",
    "repaired",
    "bleu_at_1",
    "bleu",
    "chrf",
    "reverse_kl",
    "forward_kl",
    "entropy",
    "distinct_bigrams_at_1",
    "distinct_bigrams",
    "rouge_l_at_1",
    "rouge_l",
    "seconds_of_processor",
)
_DATA = {"off": "off-policy", "mixed": "mixed", "on": "on-policy"}
_TEACHER, _START = "teacher", "start"

Estimate = tuple[float, float]  # a value and half of its interval
RowsByCommand = Mapping[str, Sequence[Row]]  # the rows that each command wrote
Groups = Mapping[str, Sequence[Row]]  # rows by method
Lines = Mapping[str, Mapping[str, Estimate]]  # measures by the heading of a line


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


def write_tables(task: str, p: TaskParams, rows: RowsByCommand, baseline: str, out: Path) -> None:
    """Write the tables and figures of a task as OUT/TASK-NAME.md and .svg, as far as there are rows.

    Args:
        task: The task.
        p: Its parameters.
        rows: Its rows.
        baseline: The method that the others are compared with.
        out: The directory.
    """
    out.mkdir(parents=True, exist_ok=True)
    usual = [row for command in ("teacher", "starts", "compare") for row in rows.get(command, [])]
    groups = _grouped(usual, task, (_TEACHER, _START, *p.methods))
    if baseline in groups:
        _write(out / f"{task}-means.md", {title(name): _means(group) for name, group in groups.items()})
        differences = {
            name: _differences(group, groups[baseline])
            for name, group in groups.items()
            if name not in (baseline, _TEACHER)
        }
        _write(out / f"{task}-differences.md", {title(name): line for name, line in differences.items()}, sign="+")
        _write(out / f"{task}-data.md", _data_differences(groups), sign="+")
        _write_ratios(groups, out / f"{task}-ratios.md", p)
        (out / f"{task}.svg").write_text(to_svg(_figure(task, differences, baseline, p)), encoding="utf-8")
    tuned = {f"{title(row['method'])} {row['rate']:g}": _values(row) for row in rows.get("tune", [])}
    _write(out / f"{task}-tuning.md", tuned)
    longer = _grouped(rows.get("longer", []), task, p.methods)
    _write(out / f"{task}-longer-means.md", {title(name): _means(group) for name, group in longer.items()})
    _write(out / f"{task}-longer-data.md", _data_differences(longer), sign="+")
    if stale := rows.get("stale"):
        _write_staleness(usual, stale, task, p.goal, out)


def _grouped(rows: Sequence[Row], project: str, methods: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of a project by method, without methods that have none."""
    groups = {name: [row for row in rows if (row["project"], row["method"]) == (project, name)] for name in methods}
    return {name: group for name, group in groups.items() if group}


def _values(row: Row) -> Mapping[str, Estimate]:
    return {key: (row[key], 0.0) for key in _COLUMNS if key in row}


def _means(rows: Sequence[Row]) -> Mapping[str, Estimate]:
    """Return the mean of every measure that the rows have, without intervals for a single row."""
    if len(rows) == 1:
        return _values(rows[0])
    return {key: interval([row[key] for row in rows]) for key in _COLUMNS if key in rows[0]}


def _differences(rows: Sequence[Row], others: Sequence[Row]) -> Mapping[str, Estimate]:
    """Return the mean difference of every measure that both have, paired by seed."""
    return {key: paired(rows, others, key) for key in _COLUMNS if key in rows[0] and key in others[0]}


def _data_differences(groups: Groups) -> Lines:
    """Return the differences between other data and off-policy data of the same divergence."""
    lines = {}
    for name, rows in groups.items():
        data, _, divergence = name.partition("-")
        if data in ("mixed", "on") and (fixed := groups.get(f"off-{divergence}")):
            lines[f"{title(name)}, minus off-policy"] = _differences(rows, fixed)
    return lines


def _write_ratios(groups: Groups, path: Path, p: TaskParams) -> None:
    """Write each method's gain over the start, and its ratio to that of the best off-policy method with all starts."""
    sign = 1 if p.larger_is_better else -1
    starts = {row["seed"]: row[p.goal] for row in groups[_START]}
    gains = {
        name: {row["seed"]: sign * (row[p.goal] - starts[row["seed"]]) for row in rows}
        for name, rows in groups.items()
        if name not in (_TEACHER, _START)
    }
    fixed = [name for name in gains if name.startswith("off-")]
    most = max(len(gains[name]) for name in fixed)
    best = max((name for name in fixed if len(gains[name]) == most), key=lambda name: mean(gains[name].values()))
    table = [["", "gain over the start", f"divided by that of {title(best)}"]]
    for name, by_seed in gains.items():
        values = list(by_seed.values())
        value, half = ratio(values, [gains[best][seed] for seed in by_seed])
        table.append([title(name), _format(interval(values), _measure_of(p.goal), "+"), f"{value:.2f} ({half:.2f})"])
    path.write_text(markdown_table(table) + "\n", encoding="utf-8")


def _measure_of(key: str) -> Measure:
    return _TITLES.get(key) or measure(key)


def _format(estimate: Estimate, kind: Measure, sign: str) -> str:
    value, half = estimate
    return f"{value:{sign}{kind.format}}" + (f" ({kind.show(half)})" if half else "")


def _write(path: Path, lines: Lines, *, sign: str = "-") -> None:
    """Write a table with a line per heading and a column per measure, if there are lines; + shows all signs."""
    present = [key for key in _COLUMNS if any(key in line for line in lines.values())]
    table = [["", *(_measure_of(key).title for key in present)]]
    for name, line in lines.items():
        table.append([name, *(_format(line[key], _measure_of(key), sign) if key in line else "" for key in present)])
    if lines:
        path.write_text(markdown_table(table) + "\n", encoding="utf-8")


def _figure(task: str, differences: Mapping[str, Mapping[str, Estimate]], baseline: str, p: TaskParams) -> Any:
    """Return a figure: the difference from the baseline by the goal, with a line per method."""
    points = []
    for name, line in differences.items():
        value, half = line[p.goal]
        ends = {"low": value - half, "high": value + half}
        points.append({"method": title(name), "data": name.partition("-")[0], "value": value} | ends)
    names = [point["method"] for point in points]
    colours = alt.Scale(domain=[_START, *_DATA], range=[GREY, *COLOURS[:3]])
    heading = f"{task}: {_measure_of(p.goal).title}, minus {title(baseline)}"
    base = alt.Chart(alt.Data(values=points), width=420, height=20 * len(names), title=heading).encode(
        y=alt.Y("method:N", title=None, sort=names, axis=alt.Axis(labelLimit=300)),
        color=alt.Color("data:N", legend=None, scale=colours),
    )
    better = "larger is better" if p.larger_is_better else "lower is better"
    marks = base.mark_point(filled=True, opacity=1).encode(x=alt.X("value:Q", title=better))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=GREY, strokeDash=[6, 4]).encode(x="value:Q")
    return alt.layer(base.mark_rule().encode(x="low:Q", x2="high:Q"), marks, zero)


def _write_staleness(usual: Sequence[Row], stale: Sequence[Row], task: str, goal: str, out: Path) -> None:
    """Write TASK-staleness.md and .svg, differences from the start, and TASK-stores.md, those from the task's project.

    Args:
        usual: The rows of the starts and of the comparison, of which those with the seeds of the others count.
        stale: The rows with newer and older completions, and of other projects.
        task: The task.
        goal: The measure of the figure.
        out: The directory.
    """
    seeds = {row["seed"] for row in stale}
    starts = [row for row in usual if row["method"] == _START]
    kinds: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in [*usual, *stale]:
        if "refresh" in row and row["seed"] in seeds:
            kinds.setdefault((row["project"], row["method"], row["uses"], row["refresh"]), []).append(row)
    lines, others, points = {}, {}, []
    for (project, method, uses, refresh), group in sorted(kinds.items()):
        if project == task and not method.startswith("on-"):
            continue
        heading = f"{project}: {title(method)}, every {refresh}, used {uses}"
        lines[heading] = dict(_differences(group, starts)) | {
            "seconds_of_processor": interval([row["seconds_of_processor"] for row in group])
        }
        if project == task:
            value, half = lines[heading][goal]
            ends = {"low": value - half, "high": value + half}
            name = title(method).removeprefix("on-policy, ")
            points.append({"divergence": name, "uses": uses, "refresh": refresh, "value": value} | ends)
        elif of_task := kinds.get((task, method, uses, refresh)):
            others[f"{heading}, minus {task}"] = _differences(group, of_task)
    _write(out / f"{task}-staleness.md", lines, sign="+")
    _write(out / f"{task}-stores.md", others, sign="+")
    base = alt.Chart(alt.Data(values=points), width=420, height=260).encode(
        x=alt.X("refresh:Q", title="steps between new completions", scale=alt.Scale(type="log")),
        color=alt.Color("divergence:N", title=None, scale=alt.Scale(range=list(COLOURS))),
        strokeDash=alt.StrokeDash("uses:N", title="uses", legend=alt.Legend(symbolType="stroke")),
    )
    heading = f"{_measure_of(goal).title}, minus start"
    lines_of_means = base.mark_line(point=True).encode(y=alt.Y("value:Q", title=heading, scale=alt.Scale(zero=False)))
    intervals = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
    (out / f"{task}-staleness.svg").write_text(to_svg(alt.layer(intervals, lines_of_means)), encoding="utf-8")
