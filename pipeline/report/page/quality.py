"""How good the students became: headline, curves and table, from metrics.json alone, of one run or of many.

A run is a label and its metrics.json. With several runs or several students each line of a chart is one student.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pipeline.report.metric_titles import PLACE, measure
from pipeline.report.page.charts import curve
from pipeline.report.page.html import Section, Specs, details, figure, grid, table, text

Metrics = Mapping[str, Any]


class Student:
    """A student of a run, with the name that it has on the page."""

    def __init__(self, run: str, name: str, metrics: Metrics) -> None:
        """`run` is '' where the page is about one run alone."""
        self.name, self.label = name, " ".join(one for one in (run, name) if one)
        self.teacher: Metrics = metrics["teacher"]
        self.before, self.after = (metrics["students"][name][when] for when in ("before", "after"))
        begin = {"id": "before", "step": 0, "scored_positions": 0} | self.before
        self.checkpoints: list[Metrics] = [begin, *metrics["students"][name]["rounds"]]

    def pairs(self) -> Iterator[tuple[Metrics, Metrics]]:
        """Each round's checkpoint behind the one before."""
        return pairwise(self.checkpoints)


def students_of(runs: Mapping[str, Metrics]) -> list[Student]:
    """Every student of every run."""
    return [Student(run, name, metrics) for run, metrics in runs.items() for name in metrics["students"]]


def keys_of(students: Sequence[Student]) -> list[str]:
    """The measures of the students' checkpoints: divergences first, then the task's, in the order found."""
    found = dict.fromkeys(key for one in students for row in one.checkpoints for key in row if key not in PLACE)
    return sorted(found, key=lambda key: (not key.endswith("_kl"), key in {"top1_agreement", "eos_share"}))


def side_by_side(students: Sequence[Student]) -> Section:
    """All students in columns, each before and after; empty for one alone, whose cards say the same."""
    teachers = [one.teacher for one in students]
    same = all(one == teachers[0] for one in teachers)
    head = ["measure", *(one.label for one in students), *(["teacher"] if same else [])]
    rows = [
        [measure(key).title, *(_way(key, one) for one in students)]
        + ([measure(key).show(teachers[0].get(key))] if same else [])
        for key in keys_of(students)
    ]
    body = table("Before and after training", head, rows) if len(students) > 1 else ""
    return Section(name="side-by-side", title="Side by side", body=body)


def _way(key: str, student: Student) -> str:
    ends = [measure(key).show(one.get(key)) for one in (student.before, student.after)]
    return " → ".join(ends) if any(ends) else ""


def headline(students: Sequence[Student]) -> Section:
    """What became of each student: a card a measure."""
    parts = []
    for one in students:
        cards = "".join(_card(key, one) for key in keys_of([one]))
        parts.append(f'<h3>{text(one.label)}</h3><div class="cards">{cards}</div>')
    return Section(name="headline", title="Before and after", body="".join(parts))


def _card(key: str, student: Student) -> str:
    of, before, after = measure(key), student.before.get(key), student.after.get(key)
    goal = student.teacher.get(key, of.at_teacher)
    named = f"teacher {of.show(goal)}" if key in student.teacher else ""
    words = " · ".join(one for one in (f"before {of.show(before)}", named, of.unit) if one)
    return (
        f'<div class="card"><span>{text(of.title)}</span><strong>{text(of.show(after))}</strong>'
        f"<small>{text(words)}</small>{_meter(before, after, goal)}</div>"
    )


def _meter(before: float | None, after: float | None, goal: float | None) -> str:
    """How much of the way from `before` to the teacher is done; nothing where that says nothing."""
    if before is None or after is None or goal is None or before == goal:
        return ""
    share = (after - before) / (goal - before)
    words = f"{share:.0%} of the way to the teacher"
    shown = min(1.0, max(0.0, share))
    return f'<div class="way" role="img" aria-label="{words}"><i style="width:{shown:.1%}"></i></div><em>{words}</em>'


def curves(students: Sequence[Student], specs: Specs) -> Section:
    """Every measure over optimizer steps, and against what the teacher was asked; adds the charts to `specs`."""
    if not any(len(one.checkpoints) > 1 for one in students):
        return Section(name="quality", title="Quality", body="")
    over_steps = [*_charts(students, specs, "step", "optimizer steps")]
    body = grid(*over_steps) + _checkpoint_table(students)
    return Section(name="quality", title="Quality on held-out prompts", body=body)


def against_teacher_tokens(students: Sequence[Student], specs: Specs) -> Section:
    """Quality by the number of positions that the teacher scored for a student."""
    asked = any(row.get("scored_positions") for one in students for row in one.checkpoints)
    title = "completion tokens the teacher scored"
    body = grid(*_charts(students, specs, "scored_positions", title)) if asked else ""
    words = (
        "What each student had been taught from by the time it was measured: tokens of its own rollouts and of the "
        "corpus, whether their scores were made in this run or came from the store."
    )
    body = f"<p>{text(words)}</p>{body}" if body else ""
    return Section(name="teacher-tokens", title="Quality against teacher tokens", body=body)


def _charts(students: Sequence[Student], specs: Specs, axis: str, x_title: str) -> Iterator[str]:
    teachers = {key: {one.teacher.get(key) for one in students} for key in keys_of(students)}
    for key, values in teachers.items():
        points = [
            {"series": one.label, "x": row[axis], "y": row[key]}
            for one in students
            for row in one.checkpoints
            if key in row and axis in row
        ]
        name, of = f"{axis}-{key}", measure(key)
        (value,) = values if len(values) == 1 else (None,)
        level = None if value is None else ("teacher", value)
        specs[name] = curve(points, x_title=x_title, y_title=of.title, marked=True, form=of.form, level=level)
        yield figure(name, of.title, of.unit)


def _checkpoint_table(students: Sequence[Student]) -> str:
    keys = keys_of(students)
    rows = []
    for one in students:
        rows += [
            [f"{one.label}, {row['id']}", f"{row.get('step', '')}", *(measure(key).show(row.get(key)) for key in keys)]
            for row in one.checkpoints
        ]
    teachers = {one.label: one.teacher for one in students}
    same = len({tuple(sorted(teacher.items())) for teacher in teachers.values()}) == 1
    for label, teacher in list(teachers.items())[: 1 if same else None]:
        name = "teacher" if same else f"teacher of {label}"
        rows.append([name, "", *(measure(key).show(teacher.get(key)) for key in keys)])
    head = ["checkpoint", "step", *(measure(key).title for key in keys)]
    return details("Numbers of every checkpoint", table("Quality of every checkpoint", head, rows))
