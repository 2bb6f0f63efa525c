"""Stop a training that diverged before it changes or saves anything.

* Loss and gradient norm are checked between the backward pass and the optimizer's step, by the numbers that the log has
  anyway. So a step with NaN changes no weight, no moment and no average.
* Weights, moments and average are checked before they are saved, because a finite step may overflow them.
* Cost: no further synchronisation of the device per step (the log reads both numbers), and one pass over what is saved
  per checkpoint.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.runtime.errors import UserError
from pipeline.training.checkpoint import TrainState, checkpoints
from pipeline.training.log import Row
from pipeline.training.run import TrainingRun


def check_step(row: Row, run: TrainingRun, scratch: Path) -> None:
    """Check the log row of a step that the optimizer has not taken yet.

    Raises:
        UserError: The loss or the gradient is NaN or infinite.
    """
    if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
        raise _diverged("loss and gradient", row, run, scratch)


def check_state(model: torch.nn.Module, state: TrainState, run: TrainingRun, scratch: Path) -> None:
    """Check what a checkpoint saves: the weights that train, the optimizer's moments, and the average.

    Raises:
        UserError: One of them contains NaN or infinity.
    """
    moments = [value for of_weight in state.optimizer.state.values() for value in of_weight.values()]
    saved = [*_trained(model), *moments, *_trained(state.published(model))]
    if not all_finite(saved):
        raise _diverged("weights and moments", state.rows[-1], run, scratch)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no tensor contains NaN or infinity; the device is synchronised once."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return bool(torch.nn.utils.get_total_norm(floats, math.inf).isfinite())


def _trained(model: torch.nn.Module) -> Sequence[Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _diverged(what: str, row: Row, run: TrainingRun, scratch: Path) -> UserError:
    section = f"sft.{run.student}.optimizer" if run.round_id == "sft" else "the optimizer of this student"
    numbers = (
        f"loss {row['loss']:.4g}, gradient norm {row['grad_norm']:.4g} at learning rate {row['learning_rate']:.3g}"
    )
    last = next(reversed(checkpoints(scratch)), None)
    kept = (
        f"the checkpoint after step {int(last.name.removeprefix('step-'))}" if last else "no checkpoint of this round"
    )
    return UserError(
        f"train {run.student} {run.round_id}, step {row['step']}",
        expected=f"finite {what}",
        got=f"{numbers} ({kept} is kept)",
        remedy=f"lower learning_rate in {section}, which starts this round again; an unchanged run stops here again",
    )
