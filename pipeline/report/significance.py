"""Changes of a run's measures beside their standard errors, and the warnings of a run.

An error of a difference is the root of the summed squares of both errors. Both models complete the same prompts, which
makes the true error smaller, so that a warning may be one too many. Errors that are not known count as 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any

from pipeline.report.metric_titles import measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A measure of a model with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A measure of a student before and after training, and where the way leads."""

    key: str
    before: Value
    after: Value
    goal: Value | None  # of the teacher, or of a student that equals it

    @property
    def is_certain(self) -> bool:
        """Whether the change is larger than its standard error."""
        return _differ(self.before, self.after)

    @property
    def share(self) -> float | None:
        """The share of the way to the teacher, None where the whole way is none, or within its standard error."""
        if self.goal is None or not _differ(self.before, self.goal):
            return None
        return (self.after.value - self.before.value) / (self.goal.value - self.before.value)


def _differ(first: Value, second: Value) -> bool:
    return abs(first.value - second.value) > hypot(first.error, second.error)


def value_of(key: str, metrics: Mapping[str, Any], errors: Mapping[str, Any]) -> Value | None:
    """Return a measure of a model, None where it has none."""
    value = metrics.get(key)
    return None if value is None else Value(value=value, error=errors.get(key) or 0.0)


def change_of(
    key: str, student: Mapping[str, Any], teacher: Mapping[str, Any], errors: Mapping[str, Any]
) -> Change | None:
    """Return the change of a measure, None where the student lacks it.

    Args:
        key: The measure.
        student: The student's metrics `before` and `after`.
        teacher: The teacher's metrics.
        errors: Standard errors of the measures, by `before`, `after` and `teacher`.
    """
    before, after = (value_of(key, student[end], errors.get(end, {})) for end in ("before", "after"))
    goal, at_teacher = value_of(key, teacher, errors.get("teacher", {})), measure(key).at_teacher
    if goal is None and at_teacher is not None:
        goal = Value(value=at_teacher, error=0.0)
    return None if before is None or after is None else Change(key=key, before=before, after=after, goal=goal)


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return the warnings of a run's stages, and those about its numbers, from the content of metrics.json."""
    warnings = list(metrics.get("warnings", ()))
    for name, student in metrics["students"].items():
        errors = metrics.get("errors", {})
        of_student = errors.get(name, {})
        last = student["rounds"][-1]["id"] if student["rounds"] else "before"
        ends = {"teacher": errors.get("teacher", {}), "before": of_student.get("before", {})}
        for key in ("forward_kl", metrics["headline"]):
            change = change_of(key, student, metrics["teacher"], ends | {"after": of_student.get(last, {})})
            if change is not None and last != "before":
                warnings += [f"{name}: {text}" for text in _texts(change)]
    return warnings


def _texts(change: Change) -> list[str]:
    """Return what is uncertain of a change."""
    about, texts = measure(change.key), []
    before, after = (about.show_with_error(end.value, end.error or None) for end in (change.before, change.after))
    if not change.is_certain:
        change_text = f"the change of {about.title} from {before} to {after}"
        texts.append(f"{change_text} is within its standard error; raise evaluation.prompts")
    if change.goal is not None and change.goal.value != change.before.value and change.share is None:
        goal = about.show_with_error(change.goal.value, change.goal.error or None)
        way = f"the way of {about.title} from {before} to the teacher's {goal}"
        texts.append(f"{way} is within its standard error, so that no share of it is shown")
    return texts
