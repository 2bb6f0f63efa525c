"""Quality of the students: headline, curves and tables, from metrics.json alone, of one run or of several.

A run is a label and its metrics.json. With several runs or several students, each line of a chart is one student.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.report.metric_titles import PLACE, measure
from pipeline.report.page.charts import Axis, curve
from pipeline.report.page.html import Chart, Section, section

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student of a run."""

    name: str
    label: str  # the name on the page: of the run, where there are several, and of the student
    teacher: Metrics
    before: Metrics
    after: Metrics
    checkpoints: Sequence[Metrics]  # before training, then each round

    def rounds(self) -> list[tuple[Metrics, Metrics]]:
        """Return the checkpoint before each round together with the one after it."""
        return list(pairwise(self.checkpoints))


def students_of(runs: Mapping[str, Metrics]) -> list[Student]:
    """Return every student of every run; the label of a page's only run is ''."""
    return [
        Student(
            name=name,
            label=f"{run} {name}".strip(),
            teacher=metrics["teacher"],
            before=student["before"],
            after=student["after"],
            checkpoints=[{"id": "before", "step": 0, "scored_positions": 0} | student["before"], *student["rounds"]],
        )
        for run, metrics in runs.items()
        for name, student in metrics["students"].items()
    ]


def keys_of(students: Sequence[Student]) -> list[str]:
    """Return the measures of the students' checkpoints: divergences first, then the task's metrics."""
    rows = [row for student in students for row in student.checkpoints]
    keys = dict.fromkeys(key for row in rows for key in row if key not in PLACE)
    return sorted(keys, key=lambda key: (not key.endswith("_kl"), key in {"top1_agreement", "eos_share"}))


def side_by_side(students: Sequence[Student]) -> Section:
    """Return a table with a column per student; the section of a single student is empty, as its cards suffice."""
    teachers = _teachers(students)
    shared = next(iter(teachers.values())) if len(teachers) == 1 else None
    head = ["measure", *(student.label for student in students), *(["teacher"] if shared else [])]
    rows = [
        [
            measure(key).title,
            *(measure(key).show_change(student.before.get(key), student.after.get(key)) for student in students),
            *([measure(key).show(shared.get(key))] if shared else []),
        ]
        for key in keys_of(students)
    ]
    return section("side-by-side", "Side by side", head=head, rows=rows if len(students) > 1 else [])


def headline(students: Sequence[Student]) -> Section:
    """Return a card per student and measure."""
    cards = {student.label: [_card(key, student) for key in keys_of([student])] for student in students}
    return section("headline", "Before and after", students=cards)


def _card(key: str, student: Student) -> dict[str, Any]:
    """Return the texts of a card, and the share of the way to the teacher that training covered, if defined."""
    about, before, after = measure(key), student.before.get(key), student.after.get(key)
    goal = student.teacher.get(key, about.at_teacher)
    teacher = f"teacher {about.show(goal)}" if key in student.teacher else ""
    notes = [f"before {about.show(before)}", teacher, about.unit]
    share = None
    if before is not None and after is not None and goal is not None and before != goal:
        share = (after - before) / (goal - before)
    return {"title": about.title, "value": about.show(after), "note": " · ".join(filter(None, notes)), "share": share}


def curves(students: Sequence[Student]) -> Section:
    """Return a chart per measure over optimizer steps, and a table; empty if no student was trained."""
    trained = any(student.rounds() for student in students)
    charts = _charts(students, "step", "optimizer steps") if trained else []
    keys = keys_of(students)
    head = ["checkpoint", "step", *(measure(key).title for key in keys)]
    rows = [
        [f"{student.label}, {row['id']}", f"{row.get('step', '')}", *_cells(keys, row)]
        for student in students
        for row in student.checkpoints
    ]
    teachers = _teachers(students)
    rows += [
        ["teacher" if len(teachers) == 1 else f"teacher of {label}", "", *_cells(keys, teacher)]
        for label, teacher in teachers.items()
    ]
    return section("quality", "Quality on held-out prompts", charts, head=head, rows=rows if trained else [])


def against_teacher_tokens(students: Sequence[Student]) -> Section:
    """Return a chart per measure over the number of positions that the teacher scored for a student."""
    scored = any(row.get("scored_positions") for student in students for row in student.checkpoints)
    charts = _charts(students, "scored_positions", "completion tokens that the teacher scored") if scored else []
    return section("teacher-tokens", "Quality against teacher tokens", charts)


def _teachers(students: Sequence[Student]) -> dict[str, Metrics]:
    """Return the teacher of each student by the student's label, or a single entry if all teachers are the same."""
    teachers = {student.label: student.teacher for student in students}
    same = all(teacher == students[0].teacher for teacher in teachers.values())
    return dict(list(teachers.items())[:1]) if same else teachers


def _charts(students: Sequence[Student], x_key: str, x_title: str) -> list[Chart]:
    return [_chart(students, key, x_key, x_title) for key in keys_of(students)]


def _chart(students: Sequence[Student], key: str, x_key: str, x_title: str) -> Chart:
    points = [
        {"series": student.label, "x": row[x_key], "y": row[key]}
        for student in students
        for row in student.checkpoints
        if key in row and x_key in row
    ]
    about, levels = measure(key), {student.teacher.get(key) for student in students}
    level = levels.pop() if len(levels) == 1 else None
    spec = curve(
        points,
        Axis(x_title, ","),
        Axis(about.title, about.format),
        marked=True,
        level=None if level is None else ("teacher", level),
    )
    return Chart(name=f"{x_key}-{key}", title=about.title, note=about.unit, spec=spec)


def _cells(keys: Sequence[str], row: Metrics) -> list[str]:
    return [measure(key).show(row.get(key)) for key in keys]
