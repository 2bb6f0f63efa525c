"""Train a student for one round: its scored rollouts and the corpus to work/STUDENT/ROUND/model, and a log."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from pipeline import lm
from pipeline.batches import BatchParams, Pool, iter_batches, make_pool
from pipeline.errors import StoreError
from pipeline.fingerprint import digest, tree_digest
from pipeline.journal import resumable
from pipeline.objective import ObjectiveParams, check, temperature_column
from pipeline.params import lookup, section
from pipeline.records import Batch
from pipeline.segment import Segment
from pipeline.text import load_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.training import OptimizerParams, checkpoints, start, steps_done, train
from pipeline.training_log import read_log
from stages.command import PARAMS, cost, run
from stages.inputs import read_rollouts

CORPUS = Path("work/corpus")


@click.command(help=__doc__)
@click.option("--student", required=True)
@click.option("--round", "round_id", required=True)
@click.option("--prev", required=True)
@click.option("--first-step", type=int, required=True)
@click.option("--steps", type=int, required=True)
def main(student: str, round_id: str, prev: str, first_step: int, steps: int) -> None:
    objective = section(PARAMS, ObjectiveParams, "objective")
    p, mix = section(PARAMS, OptimizerParams, "optimizer"), section(PARAMS, BatchParams, "batches")
    seed, home, before = lookup(PARAMS, "seed"), Path(f"work/{student}/{round_id}"), Path(f"work/{student}/{prev}")
    check(objective)
    own_segment, corpus_segment = Segment.open(home / "segment"), Segment.open(CORPUS / "segment")
    tokenizer = load_tokenizer(before / "model")
    _require_one_teacher(own_segment, corpus_segment, tokenizer_fingerprint(tokenizer))
    own, corpus = _pool(home / "rollouts.parquet", own_segment), _pool(CORPUS / "rollouts.parquet", corpus_segment)
    column, vocab = temperature_column(objective, own_segment.manifest.temperatures), shared_vocab(tokenizer)
    moments = before / "optimizer.pt" if prev != "init" else None
    key, span = (seed, student, round_id), range(first_step, first_step + steps)
    inputs = digest(
        *[asdict(one) for one in (objective, p, mix)],
        key,
        first_step,
        steps,
        tree_digest(before / "model"),
        tree_digest(moments) if moments else "",
        own_segment.manifest.segment_id,
        corpus_segment.manifest.segment_id,
    )
    outputs = {
        "model": home / "model",
        "optimizer.pt": home / "optimizer.pt",
        "train.csv": Path(f"logs/{student}/{round_id}/train.csv"),
    }

    def windows(resume_at: int) -> Iterator[list[Batch]]:
        return iter_batches(
            own, corpus, mix, temperature=objective.temperature, column=column, key=key, steps=span, resume_at=resume_at
        )

    with cost(f"{student}-{round_id}-train") as entry, resumable(outputs, inputs) as scratch:
        done = checkpoints(scratch)
        resume_at = steps_done(done[-1]) if done else first_step
        model = lm.load_model(done[-1] / "model" if done else before / "model")
        state = start(
            model,
            p,
            previous=done[-1] / "optimizer.pt" if done else moments,
            labels={"student": student, "round": round_id},
            tokens_per_step=_tokens_per_step(own, corpus, mix),
        )
        if done:
            state.rows.extend(read_log(done[-1] / "train.csv"))
        if resume_at < span.stop:
            train(
                model,
                windows(resume_at),
                objective,
                p,
                state,
                vocab=vocab,
                steps=range(resume_at, span.stop),
                key=key,
                scratch=scratch,
                title=f"train {student} {round_id}",
            )
        last = checkpoints(scratch)[-1]
        tokenizer.save_pretrained(last / "model")
        for name in outputs:
            (last / name).rename(scratch / name)
        entry["tokens"] = sum(row["sequence_tokens"] for row in state.rows)


def _require_one_teacher(own: Segment, corpus: Segment, tokenizer: str) -> None:
    """A StoreError unless both segments hold scores of one scorer, made with the student's tokenizer."""
    for name in ("scorer", "tokenizer"):
        sides = getattr(own.manifest, name), getattr(corpus.manifest, name)
        if sides[0] != sides[1]:
            raise StoreError(
                own.path,
                expected=f"the {name} of {corpus.path} ({sides[1]})",
                got=sides[0],
                remedy="score both with one teacher: delete them and run `make repro`",
            )
    if own.manifest.tokenizer != tokenizer:
        raise StoreError(
            own.path,
            expected=f"scores for the student's tokenizer {tokenizer}",
            got=own.manifest.tokenizer,
            remedy="use a student of the teacher's family",
        )


def _pool(rollouts: Path, segment: Segment) -> Pool:
    tokens = [segment.tokens(row) for row in range(len(segment))]
    return make_pool(read_rollouts(rollouts), tokens, segment.read(0, len(segment)), where=segment.path)


def _tokens_per_step(own: Pool, corpus: Pool, p: BatchParams) -> int:
    lengths = [len(one.prompt_ids) + len(one.completion_ids) for one in [*own.rollouts, *corpus.rollouts]]
    return p.batch_size * sum(lengths) // len(lengths)


if __name__ == "__main__":
    run(main)
