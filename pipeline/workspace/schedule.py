"""Two knobs, total_steps and refresh_every, unrolled into the rounds that dvc.yaml loops over.

DVC's graph is acyclic and its templates know no arithmetic, so the loop rollout -> score -> train is a list in
rounds.yaml, committed, written by `stillroom plan` and checked by the `plan` stage.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.config import AboveZero, Positive, lookup, section
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.rounds import round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleParams:
    """How long to train, and how often to refresh the rollouts."""

    total_steps: Positive
    """Optimizer steps in all."""
    refresh_every: Positive
    """Optimizer steps between two refreshes of the rollouts; the last round may be shorter."""
    max_staleness: AboveZero | None
    """Nats: a round ends after the step whose `staleness_kl` exceeds this, however many it has left; null: never."""


def rounds_document(p: ScheduleParams, students: Sequence[str], tuned: Collection[str]) -> dict[str, Any]:
    """Return rounds.yaml: the items of every `foreach` in dvc.yaml, by the name that DVC gives the stage.

    DVC has no conditional stage, but it loops over none. `teacher_dir` is where the stage `teacher` writes, and
    `starts` where under work/STUDENT the stage `init` does: somewhere else where a stage of `tuned` comes between.
    """
    rounds: dict[str, dict[str, Any]] = {
        f"{student}-r{index + 1}": {
            "student": student,
            "round": f"r{index + 1}",
            "prev": f"r{index}" if index else "init",
            "first_step": first,
            "steps": min(p.refresh_every, p.total_steps - first),
        }
        for student in students
        for index, first in enumerate(range(0, p.total_steps, p.refresh_every))
    }
    checkpoints = {"teacher": {"model": str(LAYOUT.teacher), "base": str(LAYOUT.plan)}}
    for student in students:
        base = str(LAYOUT.base(student))
        checkpoints[f"{student}-init"] = {"model": str(LAYOUT.round(student, "init").model), "base": base}
        for name, item in rounds.items():
            if item["student"] == student:
                checkpoints[name] = {"model": str(LAYOUT.round(student, item["round"]).model), "base": base}
    return {
        "teacher_dir": str(LAYOUT.untuned_teacher if "teacher" in tuned else LAYOUT.teacher),
        "starts": {name: "untuned" if name in tuned else "init" for name in students},
        "tuned": {name: _tuning(name) for name in ("teacher", *students) if name in tuned},
        "rounds": rounds,
        "scores": {"corpus": str(LAYOUT.corpus.directory)}
        | {name: str(LAYOUT.round(item["student"], item["round"]).directory) for name, item in rounds.items()},
        "checkpoints": checkpoints,
    }


def _tuning(name: str) -> dict[str, str]:
    """What a stage `sft` reads and writes; `frozen` are an adapter's weights, of which a teacher has none."""
    if name == "teacher":
        return {"base": str(LAYOUT.untuned_teacher), "frozen": str(LAYOUT.plan), "out": str(LAYOUT.teacher)}
    return {
        "base": str(LAYOUT.round(name, "untuned").model),
        "frozen": str(LAYOUT.base(name)),
        "out": str(LAYOUT.round(name, "init").model),
    }


def write_rounds(path: Path, p: ScheduleParams, students: Sequence[str], tuned: Collection[str]) -> None:
    """Write rounds.yaml."""
    document = rounds_document(p, students, tuned)
    write_yaml(path, document, comment="Written by `stillroom plan` from params.yaml; commit it.")


def check_rounds(path: Path, p: ScheduleParams, students: Sequence[str], tuned: Collection[str]) -> None:
    """A ParameterError that names the command when rounds.yaml is not what params.yaml asks for."""
    wanted, found = rounds_document(p, students, tuned), read_yaml(path)
    if found != wanted:
        raise ParameterError(
            path,
            expected=f"{len(round_list(wanted))} rounds of {p.refresh_every} steps ({p.total_steps} in all)",
            got=f"{_count(found)} rounds that do not match schedule, students and sft in params.yaml",
            remedy="run `stillroom plan`",
        )


def _count(document: Mapping[str, Any]) -> int:
    """The number of rounds in a rounds.yaml that may have been written by hand."""
    try:
        return len(round_list(document))
    except (LookupError, TypeError, AttributeError):
        return 0


ROUNDS = Path("rounds.yaml")


def follow_params() -> None:
    """Write rounds.yaml from params.yaml: schedule, students and sft."""
    write_rounds(ROUNDS, *read_schedule(LAYOUT.params))


def rounds_of(params: Path) -> dict[str, Any]:
    """What `follow_params` would write for these parameters."""
    return rounds_document(*read_schedule(params))


def read_schedule(params: Path) -> tuple[ScheduleParams, list[str], dict[str, Any]]:
    """Return what rounds.yaml is written from: the schedule, the students, and the section `sft`.

    Raises:
        ParameterError: A value of these sections is missing or wrong.
    """
    return section(params, ScheduleParams, "schedule"), lookup(params, "students"), lookup(params, "sft")
