"""Two knobs, total_steps and refresh_every, unrolled into the rounds that dvc.yaml loops over.

DVC's graph is acyclic and its templates know no arithmetic, so the loop rollout -> score -> train is a list in
rounds.yaml, committed, written by `stillroom plan` and checked by the `plan` stage.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ParameterError
from pipeline.params import AboveZero, Positive, read_yaml, write_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleParams:
    """How long to train, and how often to refresh the rollouts."""

    total_steps: Positive
    """Optimizer steps in all."""
    refresh_every: Positive
    """Optimizer steps between two refreshes of the rollouts; the last round may be shorter."""
    max_staleness: AboveZero | None
    """Nats: a round ends after the step whose `staleness_kl` exceeds this, however many it has left; null: never."""
    peers: dict[str, tuple[str, ...]]
    """For each student named here the others whose rollouts of the round before it trains on as well, off-policy; their
    scores are known to the store."""


def rounds_document(p: ScheduleParams, students: Sequence[str], tuned: Collection[str]) -> dict[str, Any]:
    """rounds.yaml: what dvc.yaml loops over.

    The rounds {id, prev, first_step, steps}; every checkpoint to evaluate, `init` first; `lends`: who lends which round
    to whom (the last has no round after it); `starts`: where under
    work/STUDENT the stage `init` leaves its model; `base`: where the stage `teacher` does; `tuned`: the stages `sft`,
    for those of the teacher and the students that are named. DVC has no conditional stage, but loops over none.
    """
    rounds = [
        {
            "id": f"r{index + 1}",
            "prev": f"r{index}" if index else "init",
            "first_step": first,
            "steps": min(p.refresh_every, p.total_steps - first),
        }
        for index, first in enumerate(range(0, p.total_steps, p.refresh_every))
    ]
    lends = {
        f"{student}-{other}-{one['id']}": {"student": student, "other": other, "round": one["id"]}
        for student, others in p.peers.items()
        for other in others
        for one in rounds[:-1]
    }
    base = "work/base" if "teacher" in tuned else "work/teacher"
    return {
        "rounds": rounds,
        "checkpoints": ["init", *(one["id"] for one in rounds)],
        "lends": lends,
        "base": base,
        "starts": {name: "untuned" if name in tuned else "init" for name in students},
        "tuned": {name: _tuning(name) for name in ("teacher", *students) if name in tuned},
    }


def turn_of(round_id: str) -> int:
    """Which of the rounds it is, from 0."""
    return int(round_id.removeprefix("r")) - 1


def _tuning(name: str) -> dict[str, str]:
    """What a stage `sft` reads and writes; `frozen` are an adapter's weights, of which a teacher has none."""
    if name == "teacher":
        return {"base": "work/base", "frozen": "work/plan.json", "out": "work/teacher"}
    return {
        "base": f"work/{name}/untuned/model",
        "frozen": f"work/{name}/base",
        "out": f"work/{name}/init/model",
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
            expected=f"{len(wanted['rounds'])} rounds of {p.refresh_every} steps ({p.total_steps} in all)",
            got=f"{len(found.get('rounds') or [])} rounds that do not match schedule, students and sft in params.yaml",
            remedy="run `stillroom plan`",
        )
