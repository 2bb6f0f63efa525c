"""Train a student for one round.

In: the round before, the rollouts and the scores of this round, the fixed corpus with its scores, and
work/students/STUDENT/optimizer.json. Out: the model and the optimizer in work/STUDENT/ROUND, and
logs/STUDENT/ROUND/train.csv.

Where evaluation.stop_if_worse ended the schedule, the round takes no step and keeps the model and the optimizer of the
round before.

With optimizer.keep_rounds, the optimizer in work/STUDENT/ROUND is a reference. A round that needs a state that was
dropped trains the rounds before again, without a teacher, and compares the result with the reference.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from pipeline.core.sampling import Sampling, comparable_temperature
from pipeline.lineage.lineage import lineage_before
from pipeline.lineage.model_card import write_round
from pipeline.losses.objective import ObjectiveParams
from pipeline.models.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, shared_vocab, tokenizer_fingerprint
from pipeline.runtime.atomic import copy
from pipeline.runtime.errors import UserError
from pipeline.runtime.layout import LAYOUT, round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.training.batches import BatchParams
from pipeline.training.log import Row, write_empty_log
from pipeline.training.mixing import ReplayParams
from pipeline.training.optimizer import UNTRACKED, OptimizerParams
from pipeline.training.round import CONVERTED_MODEL, LOG, MODEL, OPTIMIZER, REFERENCE, train_round
from pipeline.training.run import TrainingData, TrainingRun
from pipeline.training.states import STATES, drop_states, is_kept, read_reference, state_digest, state_of
from stages._stage import StageContext, Tracked, ended, run, stage

# Of the sampling, the loss needs the temperature at which a rollout's log-probs were recorded.
_UNUSED = ("max_new_tokens", "record_threshold", "record_max", "record_tail_samples")


@stage(
    "{student}-{round_id}-train",
    seed=int,
    objective=ObjectiveParams,
    optimizer=Tracked(key="optimizer", kind=OptimizerParams, untracked=UNTRACKED, file=LAYOUT.student_optimizer),
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
    _restore_state(ctx, p, tokenizer, student, prev)
    item = {"id": round_id, "prev": prev, "first_step": first_step, "steps": steps}
    training, data = _open(ctx, p, tokenizer, student, item)
    lineage = lineage_before(before.model, data.own_segment.manifest.teacher)

    def finish(model: Path, rows: list[Row]) -> None:
        save_tokenizer(tokenizer, model)
        write_round(model, lineage, training.describe(data, rows, p.task, p.settings))

    outputs = {MODEL if training.saved_dtype is None else CONVERTED_MODEL: files.model, LOG: files.log}
    if p.optimizer.keep_rounds is None:
        outputs |= {OPTIMIZER: files.optimizer}
    else:
        outputs |= {OPTIMIZER: state_of(student, round_id), REFERENCE: files.optimizer}
    _drop_states(ctx, p, student, prev)  # makes room where keep_rounds or the schedule was lowered
    rows = train_round(training, data, outputs, finish)
    _drop_states(ctx, p, student, round_id)
    ctx.cost["tokens"] = sum(row["read_tokens"] for row in rows)
    ctx.cost["steps"], ctx.cost["steps_not_taken"] = len(rows), steps - len(rows)


def _open(
    ctx: StageContext, p: Any, tokenizer: Tokenizer, student: str, item: Mapping[str, Any]
) -> tuple[TrainingRun, TrainingData]:
    """Return the settings and the sequences of a round, which is an item of rounds.yaml."""
    before, files = ctx.layout.round(student, item["prev"]), ctx.layout.round(student, item["id"])
    training = TrainingRun(
        student=student,
        round_id=item["id"],
        steps=range(item["first_step"], item["first_step"] + item["steps"]),
        start=before.model,
        optimizer_state=before.optimizer if item["prev"] != "init" else None,
        objective=p.objective,
        optimizer=p.optimizer,
        batches=p.batches,
        replay=p.replay,
        seed=p.seed,
        vocab_size=shared_vocab(tokenizer),
        behaviour_temperature=comparable_temperature(p.sampling),
        max_staleness=p.max_staleness,
        saved_dtype=None if p.optimizer.save_dtype == "float32" else getattr(torch, p.optimizer.save_dtype),
    )
    return training, TrainingData.open(training, files, ctx.layout.corpus, tokenizer_fingerprint(tokenizer))


def _restore_state(ctx: StageContext, p: Any, tokenizer: Tokenizer, student: str, round_id: str) -> None:
    """Train rounds again until the state after a round is there.

    Raises:
        UserError: Training again ended with other bits than the first time.
    """
    dropped = []
    while round_id != "init" and not is_kept(optimizer := ctx.layout.round(student, round_id).optimizer):
        reference = read_reference(optimizer)
        assert reference is not None  # an optimizer file that is no reference is kept
        items = {item["id"]: item for item in round_list(read_yaml(ctx.layout.rounds))}
        dropped.append(items[reference["round"]] | {"state": reference["state"]})
        round_id = dropped[-1]["prev"]
    for item in reversed(dropped):
        name = f"{student}-{item['id']}"
        click.echo(f"{name}: its optimizer was dropped (optimizer.keep_rounds), so it trains again")
        state = state_of(student, item["id"])
        training, data = _open(ctx, p, tokenizer, student, item)
        train_round(training, data, {OPTIMIZER: state}, lambda *_: None)
        if state_digest(state) != item["state"]:
            remedy = f"run `stillroom repro --force --single-item train@{name}`, then `make repro`"
            raise UserError(state, expected="the optimizer of the first time", got="another", remedy=remedy)
        _drop_states(ctx, p, student, item["id"])


def _drop_states(ctx: StageContext, p: Any, student: str, last: str) -> None:
    """Delete the states that the parameters do not keep, where `last` is the newest round that is done."""
    if not STATES.is_dir():
        return
    rounds = read_yaml(ctx.layout.rounds)["rounds"]
    names = [name for name, item in rounds.items() if item["student"] == student]
    done = names[: names.index(f"{student}-{last}") + 1] if last != "init" else []
    drop_states(rounds, done, p.optimizer.keep_rounds)


if __name__ == "__main__":
    run(main)
