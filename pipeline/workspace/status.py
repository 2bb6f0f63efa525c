"""`stillroom status`: how far the schedule is, and what the rest takes.

A stage is `done` when dvc.lock says that it ran with the parameters, the code and the inputs that are here now, and
its outputs are here; `again` when one of these differs; `waits` when it is done and something before it is not; else
`open`.
Guarantee: the lock is not taken, so it can be asked while `dvc repro` runs; data files are compared by what dvc.lock
says of who made them and not hashed, so a file that was edited by hand is not noticed (`dvc status` notices it).
Seconds of a stage to come are those of the latest of its kind, of the same student where there is one; training goes
by steps; scoring is `pipeline.workspace.forecast`'s.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.lineage.dvc_lock import read_lock
from pipeline.report.jobs import KINDS, Job, State, jobs, round_list
from pipeline.runtime.config import lookup
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import COSTS, PARAMS
from pipeline.runtime.markdown import markdown_table
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.forecast_inputs import needs


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


_OPEN = ("open", "again")


def standing() -> tuple[list[Job], dict[str, Any]]:
    """Every stage with its state, and the forecast for those that are left."""
    students, document = lookup(PARAMS, "students"), read_yaml(Path("rounds.yaml"))
    rounds = round_list(document)
    costs = {one.stem: read_json(one) for one in COSTS.glob("*.json")}
    asked = {one.name.replace(" ", "-") + "-score": one for one in needs()}
    here = with_states(jobs(students, rounds, document["tuned"]), Path(), read_lock(Path()))
    found = with_seconds(here, costs, {name: one.seconds for name, one in asked.items()})
    left = [one for one in found if one.state in _OPEN]
    scores = [asked[one.name] for one in left if one.name in asked]
    trained, size = sum(one.kind == "train" for one in left), _round_bytes(students, rounds)
    return found, {
        "stages": len(left),
        "seconds": _total([one.seconds for one in left]),
        "teacher_positions": sum(one.positions for one in scores),
        "store_bytes": _total([one.bytes for one in scores]),
        "cache_bytes": 0 if not trained else size and trained * size,
    }


def as_text(found: list[Job], left: dict[str, Any]) -> str:
    """A row a student and round, and the rest in two lines."""
    by_name = {one.name: one for one in found}
    shared = [f"{one.name} {one.state}" for one in found if one.student is None]
    rows = [["student", "round", *KINDS]]
    for student, round_ in dict.fromkeys((one.student, one.round) for one in found if one.student):
        cells = [by_name.get(f"{student}-{round_}-{kind}") for kind in KINDS]
        rows.append([str(student), str(round_), *(one.state if one else "" for one in cells)])
    lines = ["shared: " + ", ".join(shared), "", markdown_table(rows), ""]
    if not left["stages"]:
        return "\n".join([*lines, "all stages are done"])
    if waiting := sum(one.state == "waits" for one in found):
        lines.append(f"{waiting} wait: they run again where what comes before them comes out differently")
    seconds, store = _figure(left["seconds"], "s"), _figure(left["store_bytes"], "bytes")
    lines.append(f"left: {left['stages']} of {len(found)} stages, about {seconds} inside them (from work/costs)")
    lines.append(
        f"the teacher is asked about {left['teacher_positions']:,} positions, {store} in the store; "
        f"students and optimizers take {_figure(left['cache_bytes'], 'bytes')} in DVC's cache"
    )
    return "\n".join(lines)


def to_json(found: list[Job], left: dict[str, Any]) -> dict[str, Any]:
    """For programs."""
    return {"stages": [asdict(one) for one in found], "left": left}


def _round_bytes(students: list[str], rounds: list[dict[str, Any]]) -> int | None:
    """What the latest round that is here takes on disk: its student and its optimizer."""
    for one in reversed(rounds):
        for student in students:
            home = Path(f"work/{student}/{one['id']}")
            if (home / "model").is_dir() and (home / "optimizer.pt").is_file():
                files = [*(home / "model").rglob("*"), home / "optimizer.pt"]
                return sum(file.stat().st_size for file in files if file.is_file())
    return None


def _total(values: list[float | None] | list[int | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None


def _figure(value: float | None, unit: str) -> str:
    return f"an unknown number of {unit}" if value is None else f"{value:,.0f} {unit}"
