"""Guard: params.yaml is sound, and rounds.yaml is what its schedule asks for. The output is constant."""

from pathlib import Path

import click

from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import write_json
from pipeline.runtime.layout import PARAMS
from pipeline.workspace.schedule import ScheduleParams, check_rounds
from pipeline.workspace.validation import check_params
from stages._stage import run


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
