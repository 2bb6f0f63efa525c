"""Every stage of the schedule as a record."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["done", "again", "waits", "open"]
KINDS = ("rollout", "score", "train", "evaluate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stage of the schedule, by the name of its entry in work/costs."""

    name: str
    kind: str
    student: str | None
    round: str | None
    steps: int = 1  # optimizer steps, of training
    after: tuple[str, ...] = ()
    state: State = "open"
    seconds: float | None = None  # it took, or is expected to take


def round_list(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rounds of rounds.yaml, each once: {id, prev, first_step, steps}."""
    rounds = {item["round"]: item for item in document["rounds"].values()}
    return [
        {"id": id_, "prev": item["prev"], "first_step": item["first_step"], "steps": item["steps"]}
        for id_, item in rounds.items()
    ]


def jobs(students: Sequence[str], rounds: Sequence[Mapping[str, Any]], tuned: Collection[str] = ()) -> list[Job]:
    """Every stage but the guard and the report, each behind what it depends on; `tuned` are those of `sft`."""
    teacher = "teacher-sft" if "teacher" in tuned else "teacher"
    shared: list[Job] = [
        _job("teacher", "teacher"),
        _job("prepare", "prepare", after=("teacher",)),
        *([_job("teacher-sft", "sft", after=("prepare",))] if "teacher" in tuned else []),
        _job("generate", "generate", after=("prepare", teacher)),
        _job("corpus-score", "score", after=("generate",)),
        _job("teacher-evaluate", "evaluate", after=("prepare", teacher)),
    ]
    return shared + [one for name in students for one in _of_student(name, rounds, teacher, tuned=name in tuned)]


def _of_student(student: str, rounds: Sequence[Mapping[str, Any]], teacher: str, *, tuned: bool) -> list[Job]:
    def job(id_: str, kind: str, *after: str, steps: int = 1) -> Job:
        return Job(name=f"{student}-{id_}-{kind}", kind=kind, student=student, round=id_, after=after, steps=steps)

    first = [Job(name=f"{student}-init", kind="init", student=student, round="init", after=(teacher,))]
    if tuned:
        after = (f"{student}-init", "prepare")
        first.append(Job(name=f"{student}-sft", kind="sft", student=student, round="init", after=after))
    before = first[-1].name
    found = [*first, job("init", "evaluate", before, "prepare")]
    for one in rounds:
        id_ = one["id"]
        found += [
            job(id_, "rollout", before, "prepare"),
            job(id_, "score", f"{student}-{id_}-rollout"),
            job(id_, "train", f"{student}-{id_}-score", "corpus-score", steps=one["steps"]),
            job(id_, "evaluate", f"{student}-{id_}-train", "prepare"),
        ]
        before = f"{student}-{id_}-train"
    return found


def _job(name: str, kind: str, after: tuple[str, ...] = ()) -> Job:
    return Job(name=name, kind=kind, student=None, round=None, after=after)
