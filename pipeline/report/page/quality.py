"""Quality of the students: headline, curves and tables, from metrics.json alone, of one run or of several.

A run is a label and its metrics.json. With several runs or several students, each line of a chart is one student.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import Chart, curve
from pipeline.report.page.html import Section, section
from pipeline.report.significance import Change, change_of
from pipeline.report.summary import Metrics, checkpoints, measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student of a run."""

    label: str  # the name on the page: of the run, where there are several, and of the student
    teacher: Metrics
    checkpoints: Sequence[Metrics]  # before training, then each round
    errors: Metrics  # standard errors by `teacher`, `before` and round, as far as they are known

    def change(self, key: str) -> Change | None:
        """Return a measure before training and after the last round, with standard errors."""
        ends = {"before": self.checkpoints[0], "after": self.checkpoints[-1]}
        errors = {**self.errors, "after": self.errors.get(self.checkpoints[-1]["id"], {})}
        return change_of(key, ends, self.teacher, errors)

    def ends(self, key: str) -> tuple[float | None, float | None]:
        """Return a measure before training and after the last round."""
        return self.checkpoints[0].get(key), self.checkpoints[-1].get(key)


def students_of(runs: Mapping[str, Metrics]) -> list[Student]:
    """Return every student of every run; the label of a page's only run is ''."""
    return [
        Student(
            label=f"{run} {name}".strip(),
            teacher=metrics["teacher"],
            checkpoints=checkpoints(student),
            errors={"teacher": errors.get("teacher", {}), **errors.get(name, {})},
        )
        for run, metrics in runs.items()
        for errors in [metrics.get("errors", {})]
        for name, student in metrics["students"].items()
    ]


def keys_of(students: Sequence[Student]) -> list[str]:
    """Return the measures of the students' checkpoints: divergences first, then the task's metrics."""
    keys = measures(row for student in students for row in student.checkpoints)
    return sorted(keys, key=lambda key: (not key.endswith("_kl"), key in {"top1_agreement", "eos_share"}))


def side_by_side(students: Sequence[Student]) -> Section:
    """Return a table with a column per student; the section of a single student is empty, as its cards suffice."""
    teachers = _teachers(students)
    shared = teachers if len(teachers) == 1 else {}
    head = ["measure", *(student.label for student in students), *shared]
    rows = [
        [
            measure(key).title,
            *(measure(key).show_change(*student.ends(key)) for student in students),
            *(measure(key).show(teacher.get(key)) for teacher in shared.values()),
        ]
        for key in keys_of(students)
    ]
    return section("side-by-side", "Side by side", head=head, rows=rows if len(students) > 1 else [])


def headline(students: Sequence[Student]) -> Section:
    """Return a card per student and measure."""
    cards = {student.label: [_card(key, student) for key in keys_of([student])] for student in students}
    return section("headline", "Before and after", students=cards)


def _card(key: str, student: Student) -> dict[str, Any]:
    """Return the texts of a card, and the share of the way to the teacher that training covered, if known."""
    about, (before, after) = measure(key), student.ends(key)
    goal, change = student.teacher.get(key, about.at_teacher), student.change(key)
    error = student.errors.get(student.checkpoints[-1]["id"], {}).get(key)
    teacher = f"teacher {about.show(goal)}" if key in student.teacher else ""
    notes = [f"± {about.show(error)}" if error else "", f"before {about.show(before)}", teacher, about.unit]
    share = change.share if change else None
    return {"title": about.title, "value": about.show(after), "note": " · ".join(filter(None, notes)), "share": share}


def curves(students: Sequence[Student]) -> Section:
    """Return a chart per measure over optimizer steps, and a table; empty if no student was trained."""
    trained = any(len(student.checkpoints) > 1 for student in students)
    charts = _charts(students, "step", "optimizer steps") if trained else []
    keys = keys_of(students)
    head = ["checkpoint", "step", *(measure(key).title for key in keys)]
    models = [(f"{student.label}, {row['id']}", row) for student in students for row in student.checkpoints]
    models += _teachers(students).items()
    rows = [
        [label, f"{row.get('step', '')}", *(measure(key).show(row.get(key)) for key in keys)] for label, row in models
    ]
    return section("quality", "Quality on held-out prompts", charts, head=head, rows=rows if trained else [])


def against_teacher_tokens(students: Sequence[Student]) -> Section:
    """Return a chart per measure over the number of positions that the teacher scored for a student."""
    scored = any(row.get("scored_positions") for student in students for row in student.checkpoints)
    charts = _charts(students, "scored_positions", "completion tokens that the teacher scored") if scored else []
    return section("teacher-tokens", "Quality against teacher tokens", charts)


def _teachers(students: Sequence[Student]) -> dict[str, Metrics]:
    """Return the metrics of each student's teacher by its label, or a single entry if all teachers are the same."""
    teachers = {f"teacher of {student.label}": student.teacher for student in students}
    same = all(student.teacher == students[0].teacher for student in students)
    return {"teacher": students[0].teacher} if students and same else teachers


def _charts(students: Sequence[Student], x_key: str, x_title: str) -> list[Chart]:
    charts = []
    for key in keys_of(students):
        points = [
            {"series": student.label, "x": row[x_key], "y": row[key]}
            for student in students
            for row in student.checkpoints
            if key in row and x_key in row
        ]
        about, levels = measure(key), {student.teacher.get(key) for student in students}
        level = levels.pop() if len(levels) == 1 else None
        spec = curve(points, x_title, about, marked=True, level=None if level is None else ("teacher", level))
        charts.append(Chart(name=f"{x_key}-{key}", title=about.title, note=about.unit, spec=spec))
    return charts
