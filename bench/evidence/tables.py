"""Tables and figures of the questions: means over seeds with 95 % intervals, and differences paired by seed.

An interval is Student's t over seeds, each of which is another start. Parentheses hold half of it. Rows are those of
`bench.evidence.runs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import altair as alt

from bench.output import Row
from pipeline.report.figure import COLOURS, GREY, to_svg
from pipeline.report.metric_titles import Measure, measure
from pipeline.runtime.text import markdown_table

# The 97.5 % quantiles of Student's t by degrees of freedom.
_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_GOAL = "nats_per_byte"
_TITLES = {
    _GOAL: Measure(title="judge, sampled", format=".4f"),
    "nats_per_byte_greedy": Measure(title="judge, greedy", format=".4f"),
    "repaired_at_1": Measure(title="after a mistake at 1", format=".1%"),
    "repaired": Measure(title="after a mistake", format=".1%"),
    "seconds_of_processor": Measure(title="processor s", format=".0f"),
}
_COLUMNS = (
    _GOAL,
    "nats_per_byte_greedy",
    "reverse_kl",
    "forward_kl",
    "entropy",
    "distinct_bigrams_at_1",
    "distinct_bigrams",
    "rouge_l_at_1",
    "rouge_l",
)
_TASK_COLUMNS = ("repaired_at_1", "repaired", "reverse_kl", "forward_kl", "entropy", "seconds_of_processor")
_DATA = {"off": "off-policy", "mixed": "mixed", "on": "on-policy"}
_START, _AT_1 = "start", "_at_1"

Estimate = tuple[float, float]  # a value and half of its interval
RowsByCommand = Mapping[str, Sequence[Row]]  # the rows that each command wrote
Groups = Mapping[str, Sequence[Row]]  # rows by method


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What tables show of rows."""

    goal: str
    """The measure by which methods are compared."""
    columns: tuple[str, ...]
    """The measures of a table's columns; a row may lack some of them."""
    title: str
    """Heading of the figure."""
    larger_is_better: bool

    def line(self, rows: Sequence[Row]) -> Mapping[str, Estimate]:
        """Return the mean of every measure that the rows have."""
        return {key: interval([row[key] for row in rows]) for key in self.columns if key in rows[0]}

    def gain(self, before: Row, after: Row) -> float:
        """Return by how much a row is better than the one before."""
        change: float = after[self.goal] - before[self.goal]
        return change if self.larger_is_better else -change


_STORIES = View(
    goal=_GOAL, columns=_COLUMNS, title="judge's nats per byte of sampled completions", larger_is_better=False
)


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


def write_tables(rows: RowsByCommand, methods: Sequence[str], baseline: str, out: Path) -> None:
    """Write the tables and figures of questions 1 and 3, as far as there are rows."""
    out.mkdir(parents=True, exist_ok=True)
    starts, compared = rows.get("start", []), rows.get("compare", [])
    groups = _grouped([*starts, *compared], "exact", (_START, *methods))
    if baseline in groups:
        figure = _write_comparison(groups, baseline, out / "stories", _STORIES)
        (out / "stories.svg").write_text(to_svg(figure), encoding="utf-8")
    changes = {
        title(name): {key: paired(group, groups[name], key) for key in _COLUMNS}
        for name, group in _grouped(compared, "truncated", methods).items()
    }
    if changes:
        _write(out / "truncated-differences.md", changes, _STORIES, sign="+")
    if stale := rows.get("stale"):
        seeds = {row["seed"] for row in stale}
        usual = [row for row in compared if row["method"].startswith("on-") and row["seed"] in seeds]
        (out / "staleness.svg").write_text(_staleness([*usual, *stale], groups[_START], out), encoding="utf-8")
    _write_tuning(rows.get("tune", []), out / "stories-tuning.md", _STORIES)


def write_task_tables(
    tasks: Mapping[str, tuple[str, RowsByCommand]], methods: Sequence[str], baseline: str, out: Path
) -> None:
    """Write the tables of question 2 for every task whose rows include the baseline's, and one figure of all.

    Args:
        tasks: By task, the measure by which methods are compared, of samples at temperature 1, and the rows.
        methods: The methods.
        baseline: The method that the others are compared with.
        out: The directory.
    """
    figures = []
    for task, (goal, rows) in tasks.items():
        columns = (goal, goal.removesuffix(_AT_1), *_TASK_COLUMNS)
        view = View(goal=goal, columns=columns, title=f"{task}: {measure(goal).title}", larger_is_better=True)
        usual = [row for command in ("teacher", "start", "compare") for row in rows.get(command, [])]
        present = _grouped(usual, task, ("teacher", _START, *methods))
        if baseline in present:
            figures.append(_write_comparison(present, baseline, out / task, view))
        _write_tuning(rows.get("tune", []), out / f"{task}-tuning.md", view)
        if longer := _grouped(rows.get("longer", []), task, methods):
            _write(
                out / f"{task}-longer-means.md", {title(name): view.line(group) for name, group in longer.items()}, view
            )
            _write_pairs(longer, out / f"{task}-longer-pairs.md", view)
    if figures:
        (out / "tasks.svg").write_text(to_svg(alt.vconcat(*figures)), encoding="utf-8")


def _grouped(rows: Sequence[Row], store: str, methods: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of a project by method, without methods that have none."""
    groups = {name: [row for row in rows if (row["store"], row["method"]) == (store, name)] for name in methods}
    return {name: group for name, group in groups.items() if group}


def _write_tuning(rows: Sequence[Row], path: Path, view: View) -> None:
    """Write a line per method and learning rate, if there are rows."""
    if rows:
        _write(path, {f"{title(row['method'])} {row['rate']:g}": _exact(row, view) for row in rows}, view)


def _exact(row: Row, view: View) -> Mapping[str, Estimate]:
    return {key: (row[key], 0.0) for key in view.columns if key in row}


def _write_comparison(groups: Groups, baseline: str, out: Path, view: View) -> Any:
    """Write OUT-means.md, OUT-differences.md, OUT-pairs.md and OUT-ratios.md, and return a figure."""
    means = {title(name): view.line(rows) if len(rows) > 1 else _exact(rows[0], view) for name, rows in groups.items()}
    _write(out.with_name(f"{out.name}-means.md"), means, view)
    differences = {
        name: {key: paired(rows, groups[baseline], key) for key in view.columns if key in rows[0]}
        for name, rows in groups.items()
        if name not in (baseline, "teacher")
    }
    of_titles = {title(name): line for name, line in differences.items()}
    _write(out.with_name(f"{out.name}-differences.md"), of_titles, view, sign="+")
    _write_pairs(groups, out.with_name(f"{out.name}-pairs.md"), view)
    starts = {row["seed"]: row for row in groups[_START]}
    trained = {name: rows for name, rows in groups.items() if name not in ("teacher", _START)}
    gains = {name: {row["seed"]: view.gain(starts[row["seed"]], row) for row in rows} for name, rows in trained.items()}
    best = max(
        (name for name in gains if name.startswith("off-")),
        key=lambda name: (len(gains[name]), mean(gains[name].values())),
    )
    table = [["", "gain over the start", f"divided by that of {title(best)}"]]
    for name, by_seed in gains.items():
        values = list(by_seed.values())
        value, half = ratio(values, [gains[best][seed] for seed in by_seed])
        table.append([title(name), _shown(interval(values), _kind(view.goal), "+"), f"{value:.2f} ({half:.2f})"])
    out.with_name(f"{out.name}-ratios.md").write_text(markdown_table(table) + "\n", encoding="utf-8")
    return _figure(differences, baseline, view)


def _write_pairs(groups: Groups, path: Path, view: View) -> None:
    """Write the differences, paired by seed, between other data and off-policy data of the same divergence."""
    lines = {}
    for name, rows in groups.items():
        data, _, divergence = name.partition("-")
        fixed = groups.get(f"off-{divergence}", ())
        if data in ("mixed", "on") and fixed:
            heading = f"{title(name)}, minus off-policy"
            lines[heading] = {key: paired(rows, fixed, key) for key in view.columns if key in rows[0]}
    if lines:
        _write(path, lines, view, sign="+")


def _kind(key: str) -> Measure:
    return _TITLES.get(key) or measure(key)


def _shown(estimate: Estimate, kind: Measure, sign: str) -> str:
    value, half = estimate
    return f"{value:{sign}{kind.format}}" + (f" ({kind.show(half)})" if half else "")


def _write(path: Path, lines: Mapping[str, Mapping[str, Estimate]], view: View, *, sign: str = "-") -> None:
    """Write a table with a line per method and a column per measure; the sign + shows the signs of all values."""
    present = [key for key in view.columns if any(key in line for line in lines.values())]
    table = [["", *(_kind(key).title for key in present)]]
    for name, line in lines.items():
        table.append([name, *(_shown(line[key], _kind(key), sign) if key in line else "" for key in present)])
    path.write_text(markdown_table(table) + "\n", encoding="utf-8")


def _figure(differences: Mapping[str, Mapping[str, Estimate]], baseline: str, view: View) -> Any:
    """Return a figure: the difference from the baseline by the goal, with a line per method."""
    points = []
    for name, line in differences.items():
        value, half = line[view.goal]
        ends = {"low": value - half, "high": value + half}
        points.append({"method": title(name), "data": name.partition("-")[0], "value": value} | ends)
    names = [point["method"] for point in points]
    colours = alt.Scale(domain=[_START, *_DATA], range=[GREY, *COLOURS[:3]])
    heading = f"{view.title}, minus {title(baseline)}"
    base = alt.Chart(alt.Data(values=points), width=420, height=20 * len(names), title=heading).encode(
        y=alt.Y("method:N", title=None, sort=names, axis=alt.Axis(labelLimit=300)),
        color=alt.Color("data:N", legend=None, scale=colours),
    )
    better = "larger is better" if view.larger_is_better else "lower is better"
    marks = base.mark_point(filled=True, opacity=1).encode(x=alt.X("value:Q", title=better))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=GREY, strokeDash=[6, 4]).encode(x="value:Q")
    return alt.layer(base.mark_rule().encode(x="low:Q", x2="high:Q"), marks, zero)


def _staleness(rows: Sequence[Row], starts: Sequence[Row], out: Path) -> str:
    """Write staleness.md, and return its figure: the gain over the start by refresh interval, a line per divergence."""
    kinds: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row["store"], row["method"], row["uses"], row["refresh"]), []).append(row)
    points, columns = [], (_GOAL, "reverse_kl", "forward_kl", "entropy")
    table = [["store", "divergence", "uses", "steps between", *(_kind(key).title for key in columns), "processor s"]]
    for (store, method, uses, refresh), group in sorted(kinds.items()):
        name = title(method).removeprefix("on-policy, ")
        changes = {key: paired(group, starts, key) for key in columns}
        shown = [_shown(changes[key], _kind(key), "+") for key in columns]
        seconds = mean(row["seconds_of_processor"] for row in group)
        table.append([store, name, str(uses), str(refresh), *shown, f"{seconds:.0f}"])
        if store == "exact":
            points.append({"divergence": name, "uses": uses, "refresh": refresh, "gain": -changes[_GOAL][0]})
    (out / "staleness.md").write_text(markdown_table(table) + "\n", encoding="utf-8")
    base = alt.Chart(alt.Data(values=points), width=420, height=220).encode(
        x=alt.X("refresh:Q", title="steps between new completions", scale=alt.Scale(type="log")),
        y=alt.Y("gain:Q", title="gain over the start, judge's nats per byte", scale=alt.Scale(zero=False)),
        color=alt.Color("divergence:N", title=None, scale=alt.Scale(range=list(COLOURS))),
        strokeDash=alt.StrokeDash("uses:N", title="uses", legend=alt.Legend(symbolType="stroke")),
    )
    return to_svg(base.mark_line(point=True))
