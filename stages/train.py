"""Train a student for one round: its scored rollouts and the corpus to work/STUDENT/ROUND/model, and a log."""

from dataclasses import asdict
from pathlib import Path

import click

from pipeline.core.files import read_rollouts
from pipeline.core.hashing import digest, tree_digest
from pipeline.core.sampling import Sampling, comparable_temperature
from pipeline.lineage.training_round import describe_round, lineage_before, write_pedigree
from pipeline.losses.objective import ObjectiveParams, check, temperature_column
from pipeline.models.tokenizer import load_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import PARAMS
from pipeline.runtime.resume import DONE, resumable
from pipeline.store.segment_reader import Segment
from pipeline.training.batches import BatchParams, iter_batches, open_pool, plan_steps, planned_tokens
from pipeline.training.log import read_log
from pipeline.training.loop import OptimizerParams, checkpoints, open_run, train
from pipeline.training.mixing import ReplayParams, replay_weight
from stages._stage import cost, run

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
    replay = section(PARAMS, ReplayParams, "replay")
    limit, sampling = lookup(PARAMS, "schedule", "max_staleness"), section(PARAMS, Sampling, "rollout", "sampling")
    check(objective)
    tokenizer = load_tokenizer(before / "model")
    readable = {"tokenizer": tokenizer_fingerprint(tokenizer)}
    corpus_segment = Segment.open(CORPUS / "segment", expect=readable)
    own_segment = Segment.open(home / "segment", expect=readable | {"scorer": corpus_segment.manifest.scorer})
    own = open_pool(read_rollouts(home / "rollouts.parquet"), own_segment, mix)
    corpus = open_pool(read_rollouts(CORPUS / "rollouts.parquet"), corpus_segment, mix)
    column, vocab = temperature_column(objective, own_segment.manifest.temperatures), shared_vocab(tokenizer)
    lineage = lineage_before(before / "model", own_segment)
    moments = before / "optimizer.pt" if prev != "init" else None
    key, span = (seed, student, round_id), range(first_step, first_step + steps)
    inputs = digest(
        *[asdict(one) for one in (objective, p, mix, sampling, replay)],
        limit,
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

    with cost(f"{student}-{round_id}-train") as entry, resumable(outputs, inputs) as scratch:
        if not (scratch / DONE).is_dir():
            labels = {"student": student, "round": round_id}
            model, state, at = open_run(
                scratch,
                before / "model",
                moments,
                p,
                labels=labels,
                first_step=first_step,
            )
            again = replay_weight(replay, own.rollouts, own_segment.index["teacher_nll"].to_numpy())
            planned = plan_steps(own, corpus, mix, key=key, steps=span, replay=again)[at - first_step :]
            train(
                model,
                iter_batches(planned, temperature=objective.temperature, column=column),
                objective,
                p,
                state,
                vocab=vocab,
                steps=range(at, span.stop),
                key=key,
                scratch=scratch,
                title=f"train {student} {round_id}",
                total_tokens=planned_tokens(planned),
                behaviour_temperature=comparable_temperature(sampling),
                max_staleness=limit,
            )
            last = checkpoints(scratch)[-1]
            tokenizer.save_pretrained(last / "model")
            done = describe_round(
                round_id,
                first_step,
                {f"{student}/{round_id}": own_segment, "corpus": corpus_segment},
                [*own.rollouts, *corpus.rollouts],
                read_log(last / "train.csv"),
                task=lookup(PARAMS, "task", "name"),
                settings=lookup(PARAMS, "task", "settings"),
                parameters={
                    "seed": seed,
                    "objective": asdict(objective),
                    "optimizer": asdict(p),
                    "batches": asdict(mix),
                    "replay": asdict(replay),
                },
            )
            write_pedigree(last / "model", lineage, done)
            last.rename(scratch / DONE)
        taken = read_log(scratch / DONE / "train.csv")
        entry["tokens"] = sum(row["read_tokens"] for row in taken)
        entry["steps"], entry["steps_not_taken"] = len(taken), steps - len(taken)


if __name__ == "__main__":
    run(main)
