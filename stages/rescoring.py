"""The teacher and the store behind `stillroom store verify --rescore`."""

import sys
from contextlib import redirect_stdout

from pipeline.errors import StoreError
from pipeline.params import section
from pipeline.progress import bar
from pipeline.rescore import ROUNDING, Agreement, comparable, compare, draw
from pipeline.scoring import ScoringParams
from pipeline.shared import tokens_read
from pipeline.upkeep import segments
from stages.asking import Oracle
from stages.command import PARAMS, TEACHER, store_root


def rescore(count: int) -> tuple[Agreement, int]:
    """How `count` stored sequences agree with the teacher, and how many segments it did not write."""
    oracle, paths = Oracle.open(section(PARAMS, ScoringParams, "scoring")), segments(store_root())
    ours = comparable(paths, oracle.header.scorer)
    drawn = draw(ours, count)
    if not drawn:
        raise StoreError(
            store_root(),
            expected=f"scores by {TEACHER} in the configuration of {PARAMS}",
            got=f"{len(paths)} segments, none of them with such",
            remedy="run `make repro`, or verify without --rescore",
        )
    sequences = [one.to_score for one in drawn]
    tokens = tokens_read([one.prompt_ids for one in sequences], [one.completion_ids for one in sequences])
    teacher = oracle.teacher
    with redirect_stdout(sys.stderr), bar("rescore", tokens) as meter:
        agreement = compare(drawn, teacher, meter.update, ROUNDING[oracle.header.dtype])
    return agreement, len(paths) - len(ours)
