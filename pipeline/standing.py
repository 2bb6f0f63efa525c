"""`stillroom status`: how far the schedule is, and what the rest takes.

A stage is `done` when dvc.lock says that it ran with the parameters, the code and the inputs that are here now, and
its outputs are here; `again` when one of these differs; `waits` when it is done and something before it is not; else
`open`.
Guarantee: the lock is not taken, so it can be asked while `dvc repro` runs; data files are compared by what dvc.lock
says of who made them and not hashed, so a file that was edited by hand is not noticed (`dvc status` notices it).
Seconds of a stage to come are those of the latest of its kind, of the same student where there is one; training goes
by steps; scoring is `pipeline.forecast`'s.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.errors import ParameterError
from pipeline.params import lookup

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


def with_states(todo: Sequence[Job], root: Path, stages: Mapping[str, Any]) -> list[Job]:
    """The jobs as the files and dvc.lock, given as its stages, have them."""
    by_cost = {Path(out["path"]).stem: one for one in stages.values() for out in one["outs"] if _is_cost(out["path"])}
    made = {out["path"]: out.get("md5") for one in stages.values() for out in one["outs"]}
    states: dict[str, State] = {}
    for job in todo:
        state = _state(by_cost.get(job.name), root, made)
        unsettled = any(states[name] != "done" for name in job.after)
        states[job.name] = "waits" if state == "done" and unsettled else state
    return [replace(job, state=states[job.name]) for job in todo]


def _is_cost(path: str) -> bool:
    return path.startswith("work/costs/")


def _state(stage: Mapping[str, Any] | None, root: Path, made: Mapping[str, Any]) -> State:
    if stage is None or not all((root / out["path"]).exists() for out in stage["outs"]):
        return "open"
    inputs = all(made.get(dep["path"], dep["md5"]) == dep["md5"] for dep in stage["deps"] if "md5" in dep)
    return "done" if inputs and _same_code(stage, root) and _same_params(stage, root) else "again"


def _same_code(stage: Mapping[str, Any], root: Path) -> bool:
    code = [dep for dep in stage["deps"] if dep["path"].endswith(".py")]
    return all((root / dep["path"]).is_file() and _md5(root / dep["path"]) == dep["md5"] for dep in code)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _same_params(stage: Mapping[str, Any], root: Path) -> bool:
    ran = stage.get("params", {}).get("params.yaml", {})
    try:
        return all(lookup(root / "params.yaml", *key.split(".")) == value for key, value in ran.items())
    except ParameterError:
        return False


def with_seconds(
    todo: Sequence[Job], costs: Mapping[str, Mapping[str, Any]], scoring: Mapping[str, float | None]
) -> list[Job]:
    """The jobs with what they took, or what they are expected to take; `scoring` is the forecast of score stages."""
    found = []
    for job in todo:
        if job.state in ("done", "waits"):
            seconds = costs[job.name]["seconds"] if job.name in costs else None
        elif job.kind == "score":
            seconds = scoring.get(job.name)
        else:
            seconds = _expected(job, todo, costs)
        found.append(replace(job, seconds=seconds))
    return found


def _expected(job: Job, todo: Sequence[Job], costs: Mapping[str, Mapping[str, Any]]) -> float | None:
    alike = [one for one in todo if one.kind == job.kind and one.name in costs and _is_student(one) == _is_student(job)]
    own = [one for one in alike if one.student == job.student]
    latest = next(reversed(own or alike), None)
    return float(costs[latest.name]["seconds"]) * job.steps / latest.steps if latest else None


def _is_student(job: Job) -> bool:
    return job.student is not None
