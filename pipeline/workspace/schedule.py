"""Unroll the schedule of params.yaml into the rounds that dvc.yaml loops over.

DVC's graph has no cycles and its templates have no arithmetic, so rounds.yaml lists every round of the loop
rollout -> score -> train. `stillroom plan` writes the file, which is committed, and the stage `plan` checks it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.config import AboveZero, Positive, lookup, section
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.layout import LAYOUT, round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml

ROUNDS = LAYOUT.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleParams:
    """The length of the training, and how often students write new rollouts."""

    total_steps: Positive
    """Optimizer steps of each student."""
    refresh_every: Positive
    """Optimizer steps between two refreshes of the rollouts. The last round may be shorter."""
    max_staleness: AboveZero | None
    """Staleness in nats (`staleness_kl` of the log) above which a round ends early; null means never."""


def rounds_document(
    p: ScheduleParams, students: Sequence[str], tuned: Collection[str], stop_if_worse: bool = False
) -> dict[str, Any]:
    """Return the content of rounds.yaml: the items of every `foreach` in dvc.yaml, by the name of the stage in DVC.

    DVC has no conditional stage, but a loop over nothing. The model directories `teacher_dir`, of the stage `teacher`,
    and `starts`, of the stage `init`, have other names for a model that supervised fine-tuning changes afterwards. A
    dependency that a stage lacks is `plan.json`, which never changes.

    Args:
        p: The schedule.
        students: The names of the students.
        tuned: The names under `sft`: students, or `teacher`.
        stop_if_worse: Whether a round waits for the verdict on the round before.
    """
    none = str(LAYOUT.plan)
    rounds: dict[str, dict[str, Any]] = {}
    scores = {"corpus": str(LAYOUT.corpus.directory)}
    checkpoints = {"teacher": {"model": str(LAYOUT.teacher), "base": none, "teacher": none, "before": none}}
    for student in students:
        start = str(LAYOUT.round(student, "init").model)
        compared = {"base": str(LAYOUT.base(student)), "teacher": str(LAYOUT.prompt_metrics("teacher"))}
        checkpoints[f"{student}-init"] = {"model": start, **compared, "before": none}
        before = str(LAYOUT.prompt_metrics(f"{student}-init"))
        for item in _rounds(p):
            name, files = f"{student}-{item['round']}", LAYOUT.round(student, item["round"])
            waits = stop_if_worse and item["prev"] != "init"
            gate = str(LAYOUT.verdict(f"{student}-{item['prev']}")) if waits else none
            rounds[name] = {"student": student, **item, "gate": gate}
            scores[name] = str(files.directory)
            checkpoints[name] = {"model": str(files.model), **compared, "before": before}
    return {
        "teacher_dir": str(LAYOUT.untuned_teacher if "teacher" in tuned else LAYOUT.teacher),
        "starts": {name: "untuned" if name in tuned else "init" for name in students},
        "tuned": {name: _tuning(name) for name in ("teacher", *students) if name in tuned},
        "rounds": rounds,
        "scores": scores,
        "checkpoints": checkpoints,
    }


def _rounds(p: ScheduleParams) -> Iterator[dict[str, Any]]:
    """Yield the rounds of one student."""
    previous = "init"
    for index, first_step in enumerate(range(0, p.total_steps, p.refresh_every), start=1):
        steps = min(p.refresh_every, p.total_steps - first_step)
        yield {"round": f"r{index}", "prev": previous, "first_step": first_step, "steps": steps}
        previous = f"r{index}"


def _tuning(name: str) -> dict[str, str]:
    """Return what a stage `sft` reads and writes; `frozen` are the frozen weights of an adapter."""
    model, frozen, out = LAYOUT.round(name, "untuned").model, LAYOUT.base(name), LAYOUT.round(name, "init").model
    if name == "teacher":  # a teacher has no frozen weights, and depends on any file that exists
        model, frozen, out = LAYOUT.untuned_teacher, LAYOUT.plan, LAYOUT.teacher
    return {"base": str(model), "frozen": str(frozen), "out": str(out)}


def write_rounds(
    path: Path, p: ScheduleParams, students: Sequence[str], tuned: Collection[str], stop_if_worse: bool = False
) -> None:
    """Write rounds.yaml; the arguments are those of `rounds_document`."""
    document = rounds_document(p, students, tuned, stop_if_worse)
    write_yaml(path, document, comment="Written by `stillroom plan` from params.yaml; commit it.")


def check_rounds(
    path: Path, p: ScheduleParams, students: Sequence[str], tuned: Collection[str], stop_if_worse: bool = False
) -> None:
    """Check that rounds.yaml is what follows from params.yaml.

    Raises:
        ParameterError: It is not; the message names the command that writes it.
    """
    expected, document = rounds_document(p, students, tuned, stop_if_worse), read_yaml(path)
    if document != expected:
        rounds = f"{len(round_list(expected))} rounds of {p.refresh_every} steps ({p.total_steps} in all)"
        got = f"{_count(document)} rounds that do not match schedule, students, sft and evaluation in params.yaml"
        raise ParameterError(path, expected=rounds, got=got, remedy="run `stillroom plan`")


def _count(document: Mapping[str, Any]) -> int:
    """Return the number of rounds in a rounds.yaml that may have been written by hand."""
    try:
        return len(round_list(document))
    except (LookupError, TypeError, AttributeError):
        return 0


def follow_params() -> None:
    """Write rounds.yaml from the sections schedule, students, sft and evaluation of params.yaml."""
    write_rounds(LAYOUT.rounds, *read_schedule(LAYOUT.params))


def read_schedule(params: Path) -> tuple[ScheduleParams, list[str], dict[str, Any], bool]:
    """Return what rounds.yaml is written from: schedule, students, the section `sft`, `evaluation.stop_if_worse`.

    Raises:
        ParameterError: A value of these sections is missing or wrong.
    """
    stop_if_worse = section(params, bool, "evaluation", "stop_if_worse")
    return section(params, ScheduleParams, "schedule"), lookup(params, "students"), lookup(params, "sft"), stop_if_worse
