"""Train one round: what the stages `train` and `sft` share, from the first step to the published model.

* A killed round goes on after its last checkpoint and ends with the same bits.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.models import language_model as lm
from pipeline.models import lora
from pipeline.models.round_trip import check_written, in_dtype, probe_logits
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.errors import UserError
from pipeline.runtime.progress import bar
from pipeline.runtime.resume import DONE, resumable
from pipeline.training.batches import iter_batches, planned_tokens
from pipeline.training.checkpoint import checkpoints, open_run
from pipeline.training.finite import all_finite
from pipeline.training.log import Row, read_log
from pipeline.training.loop import train
from pipeline.training.run import TrainingData, TrainingRun
from pipeline.training.states import write_reference

# The names of the outputs; the model is CONVERTED_MODEL if `saved_dtype` is not None.
MODEL, CONVERTED_MODEL, OPTIMIZER, LOG = "model", "converted", "optimizer.pt", "train.csv"
REFERENCE = "reference.pt"  # names the optimizer file, which then is no output of DVC


def train_round(
    run: TrainingRun, data: TrainingData, outputs: Mapping[str, Path], finish: Callable[[Path, list[Row]], None]
) -> list[Row]:
    """Train a round, or go on where a killed process stopped, and publish the outputs.

    Args:
        run: The settings of the round.
        data: Its sequences.
        outputs: The place of each output, by its name above.
        finish: Writes the files that belong beside the weights, given the model directory and the training log.

    Returns:
        The training log, one row per step.
    """
    with resumable(outputs, run.fingerprint(data)) as scratch:
        if not (scratch / DONE).is_dir():
            checkpoint, rows = _train(run, data, scratch)
            finish(checkpoint / (MODEL if run.saved_dtype is None else CONVERTED_MODEL), rows)
            if REFERENCE in outputs:
                write_reference(checkpoint / REFERENCE, checkpoint / OPTIMIZER, run.student, run.round_id)
            checkpoint.rename(scratch / DONE)
        return read_log(scratch / DONE / LOG)


def _train(run: TrainingRun, data: TrainingData, scratch: Path) -> tuple[Path, list[Row]]:
    """Take the remaining steps; return the last checkpoint, with the converted model if there is one, and the log."""
    model, state = open_run(run, scratch)
    planned = run.plan(data)[len(state.rows) :]
    batches = iter_batches(planned, temperature=run.objective.temperature, column=data.column)
    with bar(f"train {run.student} {run.round_id}", planned_tokens(planned)) as meter:
        train(model, batches, state, run, scratch, meter)
    checkpoint = checkpoints(scratch)[-1]
    if run.saved_dtype is not None:
        published = in_dtype(state.published(model), run.saved_dtype)
        if not all_finite(published.parameters()):
            where, dtype = f"train {run.student} {run.round_id}", str(run.saved_dtype).removeprefix("torch.")
            remedy = f"convert the model in {run.start} to bfloat16 or float32 first"
            raise UserError(where, expected=f"weights that {dtype} can hold", got="larger ones", remedy=remedy)
        with whole_directory(checkpoint / CONVERTED_MODEL) as folder:
            lm.save_model(published, folder)
            base = lora.base_of(run.start) if lora.has_adapter(published) else None
            check_written(folder, probe_logits(published), where=folder, base=base)
    return checkpoint, state.rows
