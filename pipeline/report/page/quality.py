"""Quality of the students: headline, curves and tables, from metrics.json alone, of one run or of several.

A run is a label and its metrics.json. With several runs or several students, each line of a chart is one student.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import Chart, curve
from pipeline.report.page.html import Section, section
from pipeline.report.summary import Metrics, checkpoints, measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student of a run."""

    label: str  # the name on the page: of the run, where there are several, and of the student
    teacher: Metrics
    checkpoints: Sequence[Metrics]  # before training, then each round
    errors: Metrics  # standard errors by `teacher`, `before` and round, as far as they are known
    changes: Metrics  # from before training to the last round, as far as they are known

    def error(self, id_: str, key: str) -> float | None:
        """Return the standard error of a measure of `teacher`, `before` or a round, None where it is unknown."""
        error: float | None = self.errors.get(id_, {}).get(key)
        return error

    def ends(self, key: str) -> list[tuple[float | None, float | None]]:
        """Return a measure before training and after the last round, each with its standard error."""
        return [(row.get(key), self.error(row["id"], key)) for row in (self.checkpoints[0], self.checkpoints[-1])]


def students_of(runs: Mapping[str, Metrics]) -> list[Student]:
    """Return every student of every run; the label of a page's only run is ''."""
    return [
        Student(
            label=f"{run} {name}".strip(),
            teacher=metrics["teacher"],
            checkpoints=checkpoints(student),
            errors={"teacher": errors.get("teacher", {}), **errors.get(name, {})},
            changes=metrics.get("changes", {}).get(name, {}),
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
            *(measure(key).show_with_error(t.get(key), students[0].error("teacher", key)) for t in shared.values()),
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
    about, (before, (after, error)), change = measure(key), student.ends(key), student.changes.get(key, {})
    teacher = about.show_with_error(student.teacher.get(key), student.error("teacher", key))
    notes = [f"± {about.show(error)}" if error else "", f"before {about.show_with_error(*before)}"]
    notes += [f"teacher {teacher}" if teacher else "", about.unit]
    card = {"title": about.title, "value": about.show(after), "note": " · ".join(filter(None, notes))}
    return card | {"share": change.get("share"), "share_error": change.get("share_error")}


def curves(students: Sequence[Student]) -> Section:
    """Return a chart per measure over optimizer steps, and a table; empty if no student was trained."""
    trained = any(len(student.checkpoints) > 1 for student in students)
    charts = _charts(students, "step", "optimizer steps") if trained else []
    keys = keys_of(students)
    head = ["checkpoint", "step", *(measure(key).title for key in keys)]
    models = [
        (f"{student.label}, {row['id']}", row, student.errors.get(row["id"], {}))
        for student in students
        for row in student.checkpoints
    ]
    owners = zip(_teachers(students).items(), students, strict=False)  # one student's teacher, or all of them
    models += [(label, teacher, student.errors.get("teacher", {})) for (label, teacher), student in owners]
    rows = [
        [
            label,
            f"{row.get('step', '')}",
            *(measure(key).show_with_error(row.get(key), errors.get(key)) for key in keys),
        ]
        for label, row, errors in models
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


def _span(value: float, error: float | None) -> dict[str, float]:
    return {} if error is None else {"low": value - error, "high": value + error}


def _charts(students: Sequence[Student], x_key: str, x_title: str) -> list[Chart]:
    charts = []
    for key in keys_of(students):
        points = [
            {"series": student.label, "x": row[x_key], "y": row[key], **_span(row[key], student.error(row["id"], key))}
            for student in students
            for row in student.checkpoints
            if key in row and x_key in row
        ]
        about, levels = measure(key), {student.teacher.get(key) for student in students}
        level = levels.pop() if len(levels) == 1 else None
        spec = curve(points, x_title, about, marked=True, level=None if level is None else ("teacher", level))
        charts.append(Chart(name=f"{x_key}-{key}", title=about.title, note=about.unit, spec=spec))
    return charts
