"""The teacher and the store behind `stillroom store verify --rescore`."""

import sys
from contextlib import redirect_stdout
from dataclasses import asdict

from pipeline.codecs import CODECS, stored_fingerprint
from pipeline.engines.hf import HFScorer, scorer_fingerprint
from pipeline.errors import StoreError
from pipeline.fingerprint import model_fingerprint
from pipeline.lm import resolve_dtype
from pipeline.params import section
from pipeline.progress import bar
from pipeline.rescore import ROUNDING, Agreement, comparable, compare, draw
from pipeline.scoring import ScoringParams
from pipeline.shared import tokens_read
from pipeline.text import load_tokenizer, shared_vocab
from pipeline.upkeep import segments
from stages.command import PARAMS, TEACHER, store_root


def rescore(count: int) -> tuple[Agreement, int]:
    """How `count` stored sequences agree with the teacher, and how many segments it did not write."""
    p, vocab = section(PARAMS, ScoringParams, "scoring"), shared_vocab(load_tokenizer(TEACHER))
    engine = scorer_fingerprint(model_fingerprint(TEACHER), precision=p.precision, support=asdict(p.support))
    paths = segments(store_root())
    ours = comparable(paths, stored_fingerprint(engine, CODECS[p.codec]))
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
    teacher = HFScorer(TEACHER, precision=p.precision, vocab=vocab, support=p.support, batch_size=p.batch_size)
    with redirect_stdout(sys.stderr), bar("rescore", tokens) as meter:
        agreement = compare(drawn, teacher, meter.update, ROUNDING[str(resolve_dtype(p.precision))])
    return agreement, len(paths) - len(ours)
