"""rounds.yaml in step with params.yaml, for the commands that change either."""

from pathlib import Path

from pipeline.params import lookup, section
from pipeline.schedule import ScheduleParams, write_rounds
from stages.command import PARAMS

ROUNDS = Path("rounds.yaml")


def follow_params() -> None:
    """Write rounds.yaml from params.yaml: schedule, students and sft."""
    schedule = section(PARAMS, ScheduleParams, "schedule")
    write_rounds(ROUNDS, schedule, lookup(PARAMS, "students"), lookup(PARAMS, "sft"))
