"""Train one round: what the stages `train` and `sft` share, from the first step to the published model.

* A killed round goes on after its last checkpoint and ends with the same bits.
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.models import language_model as lm
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.progress import bar
from pipeline.runtime.resume import DONE
from pipeline.training.batches import iter_batches, planned_tokens
from pipeline.training.checkpoint import checkpoints, open_run
from pipeline.training.log import Row, read_log
from pipeline.training.loop import train
from pipeline.training.run import TrainingData, TrainingRun

MODEL, CONVERTED_MODEL, OPTIMIZER, LOG = "model", "converted", "optimizer.pt", "train.csv"
"""The names of the outputs in scratch/done; a model is CONVERTED_MODEL if `saved_dtype` is not None."""


def train_round(
    run: TrainingRun, data: TrainingData, scratch: Path, finish: Callable[[Path, list[Row]], None]
) -> list[Row]:
    """Train a round, or go on where a killed process stopped, and leave the outputs in scratch/done.

    Args:
        run: The settings of the round.
        data: Its sequences.
        scratch: The directory that `pipeline.runtime.resume.resumable` yields.
        finish: Writes the files that belong beside the weights, given the model directory and the training log.

    Returns:
        The training log, one row per step.
    """
    if not (scratch / DONE).is_dir():
        model, state = open_run(run, scratch)
        planned = run.plan(data)[len(state.rows) :]
        batches = iter_batches(planned, temperature=run.objective.temperature, column=data.column)
        with bar(f"train {run.student} {run.round_id}", planned_tokens(planned)) as meter:
            train(model, batches, state, run, scratch, meter)
        checkpoint = checkpoints(scratch)[-1]
        published = checkpoint / MODEL
        if run.saved_dtype is not None:
            published = checkpoint / CONVERTED_MODEL
            with whole_directory(published) as folder:
                lm.save_model(state.published(model).to(run.saved_dtype), folder)
        finish(published, state.rows)
        checkpoint.rename(scratch / DONE)
    return read_log(scratch / DONE / LOG)
