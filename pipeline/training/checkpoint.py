"""Checkpoints: what training carries from step to step and from round to round, in memory and on disk.

* A checkpoint holds model, optimizer and log. Weights and moments are in full precision.
* It is written beside the previous checkpoint and renamed, so a killed process leaves a complete one.
* The next round continues with the optimizer's moments, with the raw weights where the round averaged its weights
  (`pipeline.training.ema`), and with the weights in float32 where the round publishes them in fewer bits.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.serialization import config as serialization

from pipeline.models import language_model as lm
from pipeline.models.lora import base_of
from pipeline.runtime.atomic import whole_directory
from pipeline.training.ema import average_of, average_state, restore_average, set_weights, trained_weights
from pipeline.training.log import Row, read_log, write_log
from pipeline.training.optimizer import OptimizerParams, make_optimizer
from pipeline.training.run import TrainingRun
from pipeline.training.states import kept_path


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state of training beside the model's weights."""

    optimizer: torch.optim.Optimizer
    # The moving average of the weights, if there is one; it is then the model that the round publishes.
    average: AveragedModel | None
    rows: list[Row]  # The log, one row for each step of the round that was taken

    def published(self, model: lm.Model) -> lm.Model:
        """Return the model that a checkpoint saves: the average of the model in training, if there is one."""
        return model if self.average is None else self.average.module


def open_run(run: TrainingRun, scratch: Path) -> tuple[lm.Model, TrainState]:
    """Return the model and the state of the newest checkpoint in `scratch`, or of the beginning of the round."""
    last = next(reversed(checkpoints(scratch)), None)
    before = kept_path(run.optimizer_state) if run.optimizer_state else None
    model, optimizer = (last / "model", last / "optimizer.pt") if last else (run.start, before)
    loaded = lm.load_model(model, to_train=True, base=base_of(run.start))
    state = make_state(loaded, run.optimizer, previous=optimizer)
    if last is not None:
        state.rows.extend(read_log(last / "train.csv"))
    return loaded, state


def make_state(model: lm.Model, p: OptimizerParams, *, previous: Path | None) -> TrainState:
    """Return AdamW over a model, and the moving average of its weights where there is one.

    Args:
        model: the model. Where the previous round averaged its weights, these are the average before the call, and the
            raw weights after it.
        p: the parameters of the optimizer.
        previous: the optimizer file of a checkpoint, with the moments to continue from; None begins without any.
    """
    optimizer = make_optimizer(model, p)
    saved = None if previous is None else torch.load(previous, map_location=model.device, weights_only=True)
    if saved is not None and saved["published"] is not None:
        set_weights(model, saved["published"])
    average = None if p.ema_decay is None else average_of(model, p.ema_decay)
    if saved is not None:
        # `load_state_dict` restores the previous round's settings as well, so the settings of this round are put back.
        names = ("betas", "eps", "weight_decay")
        settings = [{name: group[name] for name in names} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved["optimizer"])
        for group, group_settings in zip(optimizer.param_groups, settings, strict=True):
            group.update(group_settings)
        if saved["average"] is not None:
            restore_average(model, average, saved["average"])
    return TrainState(optimizer=optimizer, average=average, rows=[])


def save_checkpoint(
    scratch: Path, model: lm.Model, state: TrainState, steps_done: int, *, with_published: bool = False
) -> None:
    """Write the checkpoint after a number of global steps, and delete older ones.

    Args:
        scratch: The directory of the round's checkpoints.
        model: The model in training.
        state: The rest of the state.
        steps_done: The number of steps, counted from the start of the student.
        with_published: Whether the optimizer file holds the published weights too, because the model directory of the
            round will hold them in fewer bits.
    """
    with whole_directory(scratch / f"step-{steps_done:08d}") as folder:
        published = state.published(model)
        lm.save_model(published, folder / "model")
        saved = {
            "optimizer": state.optimizer.state_dict(),
            "average": None if state.average is None else average_state(model, state.average),
            "published": trained_weights(published) if with_published else None,
        }
        # A checksum would take a third of the time.
        with serialization.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
            torch.save(saved, folder / "optimizer.pt")
        write_log(folder / "train.csv", state.rows)
    for older in checkpoints(scratch)[:-1]:
        shutil.rmtree(older)


def checkpoints(scratch: Path) -> list[Path]:
    """Return the directories of complete checkpoints, oldest first."""
    return sorted(scratch.glob("step-*"))
