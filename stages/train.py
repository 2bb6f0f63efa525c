"""Train a student for one round.

In: the round before, the rollouts and the scores of this round, the fixed corpus with its scores, and
work/students/STUDENT/optimizer.json. Out: the model and the optimizer in work/STUDENT/ROUND, and
logs/STUDENT/ROUND/train.csv.

Where evaluation.stop_if_worse ended the schedule, the round takes no step and keeps the model and the optimizer of the
round before.
"""

from pathlib import Path
from typing import Any

from pipeline.core.sampling import Sampling, comparable_temperature
from pipeline.lineage.lineage import lineage_before
from pipeline.lineage.model_card import write_round
from pipeline.losses.objective import ObjectiveParams
from pipeline.models.tokenizer import load_tokenizer, save_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.runtime.atomic import copy
from pipeline.runtime.layout import LAYOUT
from pipeline.training.batches import BatchParams
from pipeline.training.log import Row, write_empty_log
from pipeline.training.mixing import ReplayParams
from pipeline.training.optimizer import OptimizerParams
from pipeline.training.round import LOG, MODEL, OPTIMIZER, train_round
from pipeline.training.run import TrainingData, TrainingRun
from stages._stage import StageContext, Tracked, ended, run, stage

# Of the sampling, the loss needs the temperature at which a rollout's log-probs were recorded.
_UNUSED = ("max_new_tokens", "record_threshold", "record_max", "record_tail_samples")


@stage(
    "{student}-{round_id}-train",
    seed=int,
    objective=ObjectiveParams,
    optimizer=Tracked(key="optimizer", kind=OptimizerParams, untracked=("save_steps",), file=LAYOUT.student_optimizer),
    batches=BatchParams,
    replay=ReplayParams,
    sampling=Tracked(key="rollout.sampling", kind=Sampling, untracked=_UNUSED),
    max_staleness=("schedule.max_staleness", float | None),
    task=("task.name", str),
    settings=("task.settings", dict[str, object]),
)
def main(
    ctx: StageContext, p: Any, student: str, round_id: str, prev: str, first_step: int, steps: int, gate: Path
) -> None:
    """Train; one parameter per option of the command."""
    before, files = ctx.layout.round(student, prev), ctx.layout.round(student, round_id)
    if ended(gate):
        copy(before.model, files.model)
        copy(before.optimizer, files.optimizer)
        write_empty_log(files.log)
        ctx.cost["steps"], ctx.cost["steps_not_taken"] = 0, steps
        ctx.warn(f"{student} {round_id}: no step, because {student} {prev} was worse (evaluation.stop_if_worse)")
        return
    tokenizer = load_tokenizer(before.model)
    training = TrainingRun(
        student=student,
        round_id=round_id,
        steps=range(first_step, first_step + steps),
        start=before.model,
        optimizer_state=before.optimizer if prev != "init" else None,
        objective=p.objective,
        optimizer=p.optimizer,
        batches=p.batches,
        replay=p.replay,
        seed=p.seed,
        vocab_size=shared_vocab(tokenizer),
        behaviour_temperature=comparable_temperature(p.sampling),
        max_staleness=p.max_staleness,
    )
    data = TrainingData.open(training, files, ctx.layout.corpus, tokenizer_fingerprint(tokenizer))
    lineage = lineage_before(before.model, data.own_segment.manifest.teacher)

    def finish(model: Path, rows: list[Row]) -> None:
        save_tokenizer(tokenizer, model)
        write_round(model, lineage, training.describe(data, rows, p.task, p.settings))

    outputs = {MODEL: files.model, OPTIMIZER: files.optimizer, LOG: files.log}
    rows = train_round(training, data, outputs, finish)
    ctx.cost["tokens"] = sum(row["read_tokens"] for row in rows)
    ctx.cost["steps"], ctx.cost["steps_not_taken"] = len(rows), steps - len(rows)


if __name__ == "__main__":
    run(main)
