"""The training loop: batches to a student, resumable at any step, the same bits either way.

One optimizer step is one window of micro-batches: the loss is the sum over the window's tokens divided by their
number, so how the window is split changes nothing but rounding. A checkpoint is model and optimizer in full precision,
written beside the old one and renamed; each step's randomness comes from (seed, step). Rounds hand the optimizer's
moments on, and with an average of the weights (`pipeline.training.ema`) the weights themselves.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.serialization import config as serialization

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_read
from pipeline.losses.batch import Batch
from pipeline.losses.objective import batch_loss
from pipeline.losses.staleness import is_stale, staleness_columns
from pipeline.models import language_model as lm
from pipeline.models import lora as adapter
from pipeline.runtime.progress import Meter
from pipeline.runtime.resume import whole_directory
from pipeline.training import ema as averaging
from pipeline.training.log import Row, read_log, write_log
from pipeline.training.optimizer import OptimizerParams, make_optimizer
from pipeline.training.run import TrainingRun


def train(
    model: lm.Model, batches: Iterator[list[Batch]], state: "TrainState", run: TrainingRun, scratch: Path, meter: Meter
) -> None:
    """Take the remaining steps of a round, and leave a checkpoint of the last one in `scratch`.

    A step that leaves the rollouts staler than `run.max_staleness` is the last of the round, whether this process or an
    earlier one took it.

    Args:
        model: The model, which is trained in place.
        batches: The micro-batches of each remaining step.
        state: The optimizer, and the log of the steps that were taken already; see `open_run`.
        run: The settings of the round.
        scratch: The directory of the round's checkpoints.
        meter: A progress bar in tokens that the model reads.
    """
    p, dtype = run.optimizer, lm.resolve_dtype(run.optimizer.precision)
    schedule = transformers.get_scheduler(
        p.lr_scheduler_type, state.optimizer, p.warmup_steps, p.decay_steps
    ).lr_lambdas[0]
    model.train()
    if p.disable_dropout:
        lm.disable_dropout(model)
    if p.gradient_checkpointing:
        model.activation_checkpointing_enable()
    with _same_bits(model.device):
        for step, window in zip(run.steps[len(state.rows) :], batches, strict=True):
            if state.rows and is_stale(state.rows[-1], run.max_staleness):
                break
            torch.manual_seed(derive_seed(*run.key, "step", step))
            for group in state.optimizer.param_groups:
                group["lr"] = p.learning_rate * schedule(step + 1)
            sums = _backward(model, window, run, dtype)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), p.max_grad_norm)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update_parameters(model)
            state.rows.append(run.labels | _row(step, sums, norm, state.optimizer.param_groups[0]["lr"]))
            meter.update(int(sums["read_tokens"]))
            meter.set_postfix(loss=f"{state.rows[-1]['loss']:.3f}", step=step + 1)
            last = step == run.steps[-1] or is_stale(state.rows[-1], run.max_staleness)
            if last or (step + 1) % p.save_steps == 0:
                save(scratch, model, state, step + 1)


@contextmanager
def _same_bits(device: torch.device) -> Iterator[None]:
    """Let torch sum in one order on a CPU: the gradient of a prompt that many completions share comes from all of
    them, and threads would add it up in the order in which they come by."""
    before, memory = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic
    filled = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # with NaN, before kernels write it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _backward(model: lm.Model, window: list[Batch], run: TrainingRun, dtype: torch.dtype) -> Row:
    """Accumulate the gradient of the window's mean loss; returns sums over its tokens."""
    head, behaviour = lm.head_of(model, run.vocab_size), run.behaviour_temperature
    tokens = sum(len(batch.rows.token_ids_N) for batch in window)
    sums: Row = {"tokens": tokens, "loss_sum": 0.0, "own": 0, "truncated": 0, "sequences": 0, "read_tokens": 0}
    sums |= {"reward_sum": 0.0, "rewarded": 0}
    for batch in window:
        with lm.autocast(dtype):
            hidden_ND = lm.completion_hidden(model, batch.prompt_ids, batch.completion_ids)
            rows = batch.rows.to(model.device)
            loss, metrics = batch_loss(run.objective, head, hidden_ND, rows, behaviour_temperature=behaviour)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        sums["loss_sum"] += loss.item()
        sums["own"] += int(batch.on_policy_B.sum())
        sums["truncated"] += int((batch.on_policy_B & ~batch.finished_B).sum())
        sums["sequences"] += len(batch.prompt_ids)
        sums["read_tokens"] += tokens_read(batch.prompt_ids, batch.completion_ids)
        sums["reward_sum"] += float(np.nansum(batch.reward_B, dtype=np.float64))
        sums["rewarded"] += int(np.isfinite(batch.reward_B).sum())
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums


def _row(step: int, sums: Row, norm: Tensor, rate: float) -> Row:
    """One line of the training log; per-token means in nats. None where there is nothing to take the mean of."""
    return {
        "step": step + 1,
        "loss": sums["loss_sum"] / sums["tokens"],
        "grad_norm": norm.item(),
        "learning_rate": rate,
        "tokens": sums["tokens"],
        "read_tokens": sums["read_tokens"],
        "own_share": sums["own"] / sums["sequences"],
        **staleness_columns(sums),
        "teacher_tail": sums["teacher_tail_sum"] / sums["tokens"],
        "reward": sums["reward_sum"] / sums["rewarded"] if sums["rewarded"] else None,
        "gain_clipped": sums["clipped_tokens"] / sums["clippable_tokens"] if sums.get("clippable_tokens") else None,
    }


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What a checkpoint holds beside the model."""

    optimizer: torch.optim.Optimizer
    average: AveragedModel | None  # of the weights, which is then the model that others see
    rows: list[Row]
    """The log, one row for each step of the round that was taken."""

    def published(self, model: lm.Model) -> lm.Model:
        """What is saved of a model in training: its average, if there is one."""
        return model if self.average is None else self.average.module


def open_run(run: TrainingRun, scratch: Path) -> tuple[lm.Model, TrainState]:
    """Return the model and the state of the newest checkpoint in `scratch`, or of the beginning of the round."""
    last = next(reversed(checkpoints(scratch)), None)
    model, optimizer = (last / "model", last / "optimizer.pt") if last else (run.start, run.optimizer_state)
    loaded = lm.load_model(model, to_train=True, base=adapter.base_of(run.start))
    state = start(loaded, run.optimizer, previous=optimizer)
    if last is not None:
        state.rows.extend(read_log(last / "train.csv"))
    return loaded, state


def start(model: lm.Model, p: OptimizerParams, *, previous: Path | None) -> TrainState:
    """Return AdamW over the model, with the moments of the previous round where there is one.

    Where the previous round averaged its weights, `model` holds the average before the call and the weights that were
    averaged after it.
    """
    optimizer = make_optimizer(model, p)
    average = None if p.ema_decay is None else averaging.average_of(model, p.ema_decay)
    if previous is not None:
        settings = [{name: group[name] for name in ("betas", "weight_decay")} for group in optimizer.param_groups]
        before = torch.load(previous, map_location=model.device, weights_only=True)
        optimizer.load_state_dict(before["optimizer"])
        for group, ours in zip(optimizer.param_groups, settings, strict=True):
            group.update(ours)
        if before["average"] is not None:
            averaging.restore_average(model, average, before["average"])
    return TrainState(optimizer=optimizer, average=average, rows=[])


def save(scratch: Path, model: lm.Model, state: TrainState, done: int) -> None:
    """Checkpoint after `done` steps, replacing the one before it."""
    with whole_directory(scratch / f"step-{done:08d}") as folder:
        lm.save_model(state.published(model), folder / "model")
        average = None if state.average is None else averaging.average_state(model, state.average)
        with serialization.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]  # a third of the time
            torch.save({"optimizer": state.optimizer.state_dict(), "average": average}, folder / "optimizer.pt")
        write_log(folder / "train.csv", state.rows)
    for older in checkpoints(scratch)[:-1]:
        shutil.rmtree(older)


def checkpoints(scratch: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(scratch.glob("step-*"))
