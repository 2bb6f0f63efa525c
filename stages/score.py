"""Score rollouts with the teacher.

In: a rollouts file, work/teacher, and the store at STILLROOM_STORE, which has the scores of sequences that were scored
before. Out: a segment of scores, and the new scores in the store. NAME is the name of the entry in work/costs.
"""

import shutil
from pathlib import Path
from typing import Any

from pipeline.core.files import read_rollouts
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.access import check_writable
from pipeline.store.keys import key_of, unknown
from pipeline.store.segment_writer import write_segment
from stages._stage import StageContext, Tracked, run, stage


@stage("{name}", scoring=Tracked(key="scoring", kind=ScoringParams, untracked=("flush_every",)))
def main(ctx: StageContext, p: Any, rollouts: Path, out: Path, name: str) -> None:
    """Write the scores."""
    sequences, teacher = read_rollouts(rollouts), CachedTeacher.open(p.scoring)
    check_writable(teacher.store.root)
    teacher.store.sweep()
    stored = teacher.store.read(teacher.find(sequences))
    scored = teacher.score(sequences, stored, title=name)
    shutil.rmtree(out, ignore_errors=True)
    write_segment(out, scored, teacher.header, teacher.token_of_rank)
    payload = [file for file in (out / "payload.zarr").rglob("*") if file.is_file()]
    ctx.cost["payload_bytes"] = sum(file.stat().st_size for file in payload)
    ctx.cost["positions"] = sum(rollout.positions for rollout in sequences)
    reused = [rollout for rollout in sequences if key_of(rollout) in stored]
    ctx.cost["positions_reused"] = sum(rollout.positions for rollout in reused)
    ctx.cost["tokens"] = tokens_to_read(unknown(sequences, stored))


if __name__ == "__main__":
    run(main)
