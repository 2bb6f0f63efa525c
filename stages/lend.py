"""A round's rollouts of one student, for another to train on as well: work/STUDENT/ROUND/lent/OTHER.parquet.

They lie beside the round's own outputs, and the next round's rollout stage depends on that directory as a whole. So DVC
has an edge from one student to another only where `schedule.peers` asks for it.
"""

from pathlib import Path

import click

from pipeline.core.files import read_rollouts
from pipeline.rollout.replay import lent
from pipeline.runtime.files import write_rows
from schemas.rollout import ROLLOUT
from stages._stage import run


@click.command(help=__doc__)
@click.option("--student", required=True)
@click.option("--other", required=True)
@click.option("--round", "round_id", required=True)
def main(student: str, other: str, round_id: str) -> None:
    rollouts = read_rollouts(Path(f"work/{other}/{round_id}/rollouts.parquet"))
    write_rows(Path(f"work/{student}/{round_id}/lent/{other}.parquet"), lent(rollouts), ROLLOUT)


if __name__ == "__main__":
    run(main)
