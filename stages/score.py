"""Score a rollouts file into a segment; what the store at STILLROOM_STORE knows does not reach the teacher."""

import shutil
from pathlib import Path

import click

from pipeline.core.files import read_rollouts
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.runtime.config import section
from pipeline.runtime.layout import PARAMS
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.keys import key_of, unknown
from pipeline.store.segment_writer import write_segment
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--rollouts", "source", type=Path, required=True)
@click.option("--out", type=Path, required=True)
@click.option("--name", required=True, help="Of the entry in work/costs.")
def main(source: Path, out: Path, name: str) -> None:
    rollouts, oracle = read_rollouts(source), CachedTeacher.open(section(PARAMS, ScoringParams, "scoring"))
    with cost(name) as entry:
        oracle.store.sweep()
        known = oracle.store.read(oracle.find(rollouts))
        scored = oracle.score(rollouts, known, title=name)
        shutil.rmtree(out, ignore_errors=True)
        write_segment(out, scored, oracle.header, oracle.token_of_rank)
        entry["payload_bytes"] = sum(one.stat().st_size for one in (out / "payload.zarr").rglob("*") if one.is_file())
        entry["positions"] = sum(len(one.completion_ids) for one in rollouts)
        entry["positions_reused"] = sum(len(one.completion_ids) for one in rollouts if key_of(one) in known)
        entry["tokens"] = tokens_to_read(unknown(rollouts, known))


if __name__ == "__main__":
    run(main)
