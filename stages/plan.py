"""Guard: params.yaml is sound, and rounds.yaml is what its schedule asks for. The output is constant."""

from pathlib import Path

import click

from pipeline.configuration import check_params
from pipeline.params import lookup, section
from pipeline.schedule import ScheduleParams, check_rounds
from pipeline.tables import write_json
from stages.command import PARAMS, run


@click.command(help=__doc__)
def main() -> None:
    check_params(PARAMS)
    check_rounds(
        Path("rounds.yaml"),
        section(PARAMS, ScheduleParams, "schedule"),
        lookup(PARAMS, "students"),
        lookup(PARAMS, "sft"),
    )
    write_json(Path("work/plan.json"), {"sound": True})


if __name__ == "__main__":
    run(main)
