"""Score rollouts with the teacher.

In: a rollouts file, work/teacher, and the store at STILLROOM_STORE, which has the scores of sequences that were scored
before. Out: a segment of scores, and the new scores in the store.
"""

import shutil
from pathlib import Path
from typing import Any

import click

from pipeline.core.files import read_rollouts
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.keys import key_of, unknown
from pipeline.store.segment_writer import write_segment
from stages._stage import StageContext, run, stage


@stage("{name}", scoring=ScoringParams)
@click.option("--rollouts", "source", type=Path, required=True)
@click.option("--out", type=Path, required=True)
@click.option("--name", required=True, help="The name of the entry in work/costs.")
def main(ctx: StageContext, p: Any, source: Path, out: Path, name: str) -> None:
    """Write the scores."""
    rollouts, teacher = read_rollouts(source), CachedTeacher.open(p.scoring)
    teacher.store.sweep()
    stored = teacher.store.read(teacher.find(rollouts))
    scored = teacher.score(rollouts, stored, title=name)
    shutil.rmtree(out, ignore_errors=True)
    write_segment(out, scored, teacher.header, teacher.token_of_rank)
    payload = [file for file in (out / "payload.zarr").rglob("*") if file.is_file()]
    ctx.cost["payload_bytes"] = sum(file.stat().st_size for file in payload)
    ctx.cost["positions"] = sum(len(rollout.completion_ids) for rollout in rollouts)
    ctx.cost["positions_reused"] = sum(len(rollout.completion_ids) for rollout in rollouts if key_of(rollout) in stored)
    ctx.cost["tokens"] = tokens_to_read(unknown(rollouts, stored))


if __name__ == "__main__":
    run(main)
