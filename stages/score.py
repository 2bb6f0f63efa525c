"""Score a rollouts file into a segment; what the store at STILLROOM_STORE knows does not reach the teacher."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
import numpy as np

from pipeline import lm
from pipeline.catalog import find_known
from pipeline.codecs import CODECS, config_of, stored_fingerprint
from pipeline.engines.hf import HFScorer, scorer_fingerprint
from pipeline.fingerprint import model_fingerprint
from pipeline.params import section
from pipeline.scoring import ScoringParams, key_of, score_rollouts, unknown
from pipeline.segment import write_segment
from pipeline.sequences import SegmentHeader
from pipeline.shared import tokens_to_read
from pipeline.store import Store
from pipeline.text import load_tokenizer, shared_vocab, template_fingerprint, tokenizer_fingerprint
from stages.command import PARAMS, RANKS, TEACHER, cost, run, store_root
from stages.inputs import read_rollouts


@click.command(help=__doc__)
@click.option("--rollouts", "source", type=Path, required=True)
@click.option("--out", type=Path, required=True)
@click.option("--name", required=True, help="Of the entry in work/costs.")
def main(source: Path, out: Path, name: str) -> None:
    p = section(PARAMS, ScoringParams, "scoring")
    rollouts, ranks, tokenizer = read_rollouts(source), np.load(RANKS), load_tokenizer(TEACHER)
    header, store = _header(p, tokenizer), Store(root=store_root())
    with cost(name) as entry:
        store.sweep()
        known = store.read(find_known(store.root, header.scorer, [key_of(one) for one in rollouts]))
        load = partial(
            HFScorer,
            TEACHER,
            precision=p.precision,
            vocab=header.vocab_size,
            support=p.support,
            batch_size=p.batch_size,
        )
        publish = partial(store.publish, header=header, token_of_rank=ranks)
        scored = score_rollouts(rollouts, known, load, publish, p, title=name)
        shutil.rmtree(out, ignore_errors=True)
        write_segment(out, scored, header, ranks)
        entry["payload_bytes"] = sum(one.stat().st_size for one in (out / "payload.zarr").rglob("*") if one.is_file())
        entry["positions"] = sum(len(one.completion_ids) for one in rollouts)
        entry["positions_reused"] = sum(len(one.completion_ids) for one in rollouts if key_of(one) in known)
        entry["tokens"] = tokens_to_read(unknown(rollouts, known))


def _header(p: ScoringParams, tokenizer: object) -> SegmentHeader:
    teacher, support, codec = model_fingerprint(TEACHER), asdict(p.support), CODECS[p.codec]
    return SegmentHeader(
        scorer=stored_fingerprint(scorer_fingerprint(teacher, precision=p.precision, support=support), codec),
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template_fingerprint(tokenizer),
        engine="transformers",
        dtype=str(lm.resolve_dtype(p.precision)),
        vocab_size=shared_vocab(tokenizer),
        temperatures=p.support.temperatures,
        scoring={"support": support},
        codec=p.codec,
        codec_config=config_of(codec),
    )


if __name__ == "__main__":
    run(main)
