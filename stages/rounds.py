"""rounds.yaml in step with params.yaml, for the commands that change either."""

from pathlib import Path
from typing import Any

from pipeline.params import lookup, section
from pipeline.schedule import ScheduleParams, rounds_document, write_rounds
from stages.command import PARAMS

ROUNDS = Path("rounds.yaml")


def follow_params() -> None:
    """Write rounds.yaml from params.yaml: schedule, students and sft."""
    write_rounds(ROUNDS, *_asked(PARAMS))


def rounds_of(params: Path) -> dict[str, Any]:
    """What `follow_params` would write for these parameters."""
    return rounds_document(*_asked(params))


def _asked(params: Path) -> tuple[ScheduleParams, list[str], dict[str, Any]]:
    return section(params, ScheduleParams, "schedule"), lookup(params, "students"), lookup(params, "sft")
