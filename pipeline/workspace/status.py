"""Report how far the schedule is and what the rest of it takes (`stillroom status`).

A stage has one of four states:

* `done`: dvc.lock records that it ran with the present command, parameters, code and inputs, and wrote the present
  outputs.
* `again`: it ran, and one of these differs.
* `waits`: it is done, and a stage before it is not. It runs again if that stage's outputs come out differently.
* `open`: it never ran, or one of its outputs is missing.

The seconds of a stage to come are those of the latest stage of its kind, of the same student where there is one;
training is scaled by its steps. `pipeline.workspace.forecast` estimates scoring.

* Guarantee: no lock of DVC is taken, so that the command works while `dvc repro` runs.
* Cost: about 3 s. DVC hashes only files that are newer than its own record of their hashes.
"""

import functools
import operator
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.lineage.dvc_index import load_index, stages_before
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, Layout, cost_names
from pipeline.runtime.templates import fill_template
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.disk_usage import rest_bytes
from pipeline.workspace.forecast_inputs import forecast_schedule
from pipeline.workspace.students import student_files

State: TypeAlias = Literal["done", "again", "waits", "open"]
KINDS = ("rollout", "score", "train", "evaluate")
_SHARED = ("", "teacher", "corpus")  # what follows the @ in the name of a stage that belongs to no student


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stage of the schedule, under the name of its file in work/costs."""

    name: str
    kind: str
    student: str | None
    round: str | None
    steps: int = 1  # Optimizer steps of a training stage
    after: tuple[str, ...] = ()  # Names of the stages that it depends on directly
    state: State = "open"
    seconds: float | None = None  # Seconds that it took, or that it is expected to take


def find_jobs(root: Path, document: Mapping[str, Any]) -> list[Job]:
    """Return every stage but `plan` and `report` with its state, students one after the other.

    Args:
        root: The directory of the project.
        document: The content of its rounds.yaml.

    Raises:
        DataError: DVC cannot read the pipeline.
    """
    index = load_index(root)
    # Every stage but `plan` and `report` writes a file into work/costs.
    names = {
        out.stage: Path(out.def_path).stem for out in index.outs if Path(out.def_path).is_relative_to(LAYOUT.costs)
    }
    graph = index.graph.subgraph(names)
    missing = [Path(out.fs_path) for out in index.outs if not out.exists]
    states = {stage: _state(stage, Layout(root).params, missing) for stage in names}
    jobs = {}
    for stage, name in names.items():
        kind, _, key = stage.name.partition("@")
        student, _, round_id = (None, None, None) if key in _SHARED else key.partition("-")
        waits = states[stage] == "done" and any(states[before] != "done" for before in stages_before(graph, stage))
        jobs[name] = Job(
            name=name,
            kind=kind,
            student=student,
            round=student and (round_id or "init"),
            steps=document["rounds"][key]["steps"] if kind == "train" else 1,
            after=tuple(sorted(names[before] for before in graph.successors(stage))),
            state="waits" if waits else states[stage],
        )
    return [jobs[name] for name in cost_names(document) if name in jobs]


def _state(stage: Any, params: Path, missing: Sequence[Path]) -> State:
    """Return the state of a stage of DVC's index by its own files alone, so never `waits`."""
    if not all(out.hash_info and out.exists for out in stage.outs):
        return "open"
    # A dependency that lacks outputs of a stage before this one shows nothing until that stage has run.
    deps = [dep for dep in stage.deps if not any(_overlap(Path(dep.fs_path), path) for path in missing)]
    changed = stage.cmd_changed or any(_changed(file, params) for file in (*deps, *stage.outs))
    return "again" if changed else "done"


def _changed(file: Any, params: Path) -> bool:
    """Return whether a file, a directory or the parameters of a stage differ from dvc.lock."""
    recorded = file.hash_info.value
    if not isinstance(recorded, dict):
        return bool(file.workspace_status())
    # DVC itself would parse params.yaml once for each stage, which takes longer than all the rest.
    try:
        document, path = read_yaml(params), Path(file.fs_path)
        if path.name != params.name:  # a file of work/students, as `plan` would write it now
            layout = Layout(params.parent.resolve())
            document = student_files(layout, document, path.parent.name)[path]
        return any(_value(document, key) != value for key, value in recorded.items())
    except (ParameterError, KeyError, TypeError):  # the parameter is gone
        return True


def _value(document: Any, key: str) -> Any:
    """Return the value at a dotted key."""
    return functools.reduce(operator.getitem, key.split("."), document)


def _overlap(path: Path, other: Path) -> bool:
    return path.is_relative_to(other) or other.is_relative_to(path)


def with_seconds(
    jobs: Sequence[Job], costs: Mapping[str, Mapping[str, Any]], scoring: Mapping[str, float | None]
) -> list[Job]:
    """Return the jobs with the seconds that they took or are expected to take.

    Args:
        jobs: The stages of the schedule.
        costs: The files of work/costs by name.
        scoring: The seconds that the forecast expects of score stages, by name.
    """

    def seconds(job: Job) -> float | None:
        if job.state in ("done", "waits"):
            return costs[job.name]["seconds"] if job.name in costs else None
        if job.kind == "score":
            return scoring.get(job.name)
        # The teacher's own evaluation compares nothing, so that it shows nothing about the evaluation of a student.
        of_student = [other for other in jobs if (other.student is None) == (job.student is None)]
        measured = [other for other in of_student if other.kind == job.kind and other.name in costs]
        latest = max(reversed(measured), key=lambda other: other.student == job.student, default=None)
        return float(costs[latest.name]["seconds"]) * job.steps / latest.steps if latest else None

    return [replace(job, seconds=seconds(job)) for job in jobs]


def read_status() -> tuple[list[Job], dict[str, Any]]:
    """Return every stage with its state, and the forecast of what is left, of the project in this directory.

    Raises:
        UserError: A file of the project cannot be read, or rounds.yaml does not match params.yaml.
    """
    costs = {path.stem: read_json(path) for path in LAYOUT.costs.glob("*.json")}
    estimates = {estimate.name.replace(" ", "-") + "-score": estimate for estimate in forecast_schedule()}
    jobs = find_jobs(Path(), read_yaml(LAYOUT.rounds))
    jobs = with_seconds(jobs, costs, {name: estimate.seconds for name, estimate in estimates.items()})
    left = [job for job in jobs if job.state in ("open", "again")]
    scoring = [estimates[job.name] for job in left if job.name in estimates]
    disk = rest_bytes(Path(), Counter(str(job.student) for job in left if job.kind == "train"))
    return jobs, {
        "stages": len(left),
        "seconds": _total([job.seconds for job in left]),
        "teacher_positions": sum(estimate.positions for estimate in scoring),
        "store_bytes": _total([estimate.bytes for estimate in scoring]),
        "worse": worse_messages(jobs, LAYOUT),
        "disk": disk and asdict(disk),
        "free_bytes": shutil.disk_usage(Path()).free,
    }


def worse_messages(jobs: Sequence[Job], layout: Layout) -> list[str]:
    """Return the warnings about students that are worse, or worse in part, by their latest evaluation."""
    evaluated = [job for job in jobs if job.kind == "evaluate" and job.student and job.state in ("done", "waits")]
    latest = {job.student: read_json(layout.evaluation(f"{job.student}-{job.round}")) for job in evaluated}
    return [message for evaluation in latest.values() if (message := evaluation.get("worse"))]


def _total(values: list[float | None] | list[int | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) if len(numbers) == len(values) else None


def as_text(jobs: list[Job], left: dict[str, Any]) -> str:
    """Return a table with a row per student and round, lines about what is left, and about what became worse."""
    states = {job.name: job.state for job in jobs}
    rows = [["student", "round", *KINDS]]
    for student, round_id in dict.fromkeys((str(job.student), str(job.round)) for job in jobs if job.student):
        rows.append([student, round_id, *(states.get(f"{student}-{round_id}-{kind}", "") for kind in KINDS)])
    return fill_template(
        Path(__file__).with_name("status.txt.j2"),
        shared=", ".join(f"{job.name} {job.state}" for job in jobs if job.student is None),
        rounds=rows,
        left=left,
        stages=len(jobs),
        waiting=sum(job.state == "waits" for job in jobs),
    ).rstrip("\n")
