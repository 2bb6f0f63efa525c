"""The training loop: batches to a student, resumable at any step, the same bits either way.

One optimizer step is one window of micro-batches: the loss is the sum over the window's tokens divided by their
number, so how the window is split changes nothing but rounding. A checkpoint is model and optimizer in full precision,
written beside the old one and renamed; each step's randomness comes from (seed, step). Rounds hand the optimizer's
moments on, and with an average of the weights (`pipeline.training.ema`) the weights themselves.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import transformers
from annotated_types import Interval
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.serialization import config as serialization
from transformers.trainer_pt_utils import get_parameter_names

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_read
from pipeline.core.types import Precision
from pipeline.losses.batch import Batch
from pipeline.losses.objective import ObjectiveParams, batch_loss
from pipeline.losses.staleness import is_stale, measures
from pipeline.models import language_model as lm
from pipeline.models import lora as adapter
from pipeline.runtime.config import AboveZero, Count, Fraction, NonNegative, Positive
from pipeline.runtime.progress import bar
from pipeline.runtime.resume import whole_directory
from pipeline.training import ema as averaging
from pipeline.training.log import Row, read_log, write_log

_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # transformers.Trainer's


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerParams:
    """AdamW and its schedule; names as in transformers."""

    learning_rate: AboveZero
    lr_scheduler_type: Literal["constant_with_warmup", "linear", "cosine"]
    warmup_steps: Count
    """Steps from 0 to learning_rate."""
    decay_steps: Positive
    """Step at which linear and cosine reach 0; fixed here, so that appended rounds do not change earlier ones."""
    adam_beta1: Fraction
    adam_beta2: Fraction
    weight_decay: NonNegative
    """Of all weights but biases and norms', as in transformers."""
    max_grad_norm: AboveZero
    """Gradients are clipped to this norm."""
    precision: Precision
    """Of the student's body and of the backward pass through its head (autocast); weights, logits and optimizer stay
    in float32."""
    ema_decay: Annotated[float, Interval(ge=0, le=0.9999)] | None
    """Of a moving average of the weights over the steps, which then is what a round's model is; null: none."""
    disable_dropout: bool
    """Train without the model's own dropout and an adapter's, as TRL does. With it the student that learns is not the
    one that wrote the rollouts, by half a nat a token for T5's rate of .1, which counts as staleness."""
    gradient_checkpointing: bool
    """Keep what goes into each layer instead of all that happens in it, and compute the rest again: much less memory,
    about a third more time, and a prompt is read again for each of its completions."""
    save_steps: Positive
    """Steps between checkpoints: what a kill can cost."""


def train(
    model: lm.Model,
    batches: Iterator[list[Batch]],
    objective: ObjectiveParams,
    p: OptimizerParams,
    state: "TrainState",
    *,
    vocab: int,
    steps: range,
    key: Sequence[object],
    scratch: Path,
    title: str,
    total_tokens: int,
    behaviour_temperature: float | None,
    max_staleness: float | None,
) -> None:
    """Train for `steps` (global step numbers; `batches` yields one window for each), leaving a checkpoint of the last.

    A step that leaves the rollouts staler than `max_staleness` is the last, whether this run or an earlier one took it.
    `state` carries the optimizer and the rows logged so far; see `start`. `total_tokens` is for the progress bar.
    """
    dtype = lm.resolve_dtype(p.precision)
    schedule = transformers.get_scheduler(
        p.lr_scheduler_type, state.optimizer, p.warmup_steps, p.decay_steps
    ).lr_lambdas[0]
    model.train()
    if p.disable_dropout:
        lm.disable_dropout(model)
    if p.gradient_checkpointing:
        model.activation_checkpointing_enable()
    with _same_bits(model.device), bar(title, total_tokens) as meter:
        for step, window in zip(steps, batches, strict=True):
            if state.rows and is_stale(state.rows[-1], max_staleness):
                break
            torch.manual_seed(derive_seed(*key, "step", step))
            for group in state.optimizer.param_groups:
                group["lr"] = p.learning_rate * schedule(step + 1)
            sums = _backward(model, lm.head_of(model, vocab), window, objective, dtype, behaviour_temperature)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), p.max_grad_norm)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update_parameters(model)
            state.rows.append(state.labels | _row(step, sums, norm, state.optimizer.param_groups[0]["lr"]))
            meter.update(int(sums["read_tokens"]))
            meter.set_postfix(loss=f"{state.rows[-1]['loss']:.3f}", step=step + 1)
            last = step == steps[-1] or is_stale(state.rows[-1], max_staleness)
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


def _backward(
    model: lm.Model,
    head: Any,
    window: list[Batch],
    objective: ObjectiveParams,
    dtype: torch.dtype,
    behaviour_temperature: float | None,
) -> Row:
    """Accumulate the gradient of the window's mean loss; returns sums over its tokens."""
    tokens = sum(len(batch.token_ids_N) for batch in window)
    sums: Row = {"tokens": tokens, "loss_sum": 0.0, "own": 0, "truncated": 0, "sequences": 0, "read_tokens": 0}
    sums |= {"reward_sum": 0.0, "rewarded": 0}
    for batch in window:
        with lm.autocast(dtype):
            hidden_ND = lm.completion_hidden(model, batch.prompt_ids, batch.completion_ids)
            loss, metrics = batch_loss(
                objective, head, hidden_ND, to_torch(batch, model.device), behaviour_temperature=behaviour_temperature
            )
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        sums["loss_sum"] += loss.item()
        sums["own"] += int(batch.from_student_B.sum())
        sums["truncated"] += int((batch.from_student_B & ~batch.finished_B).sum())
        sums["sequences"] += len(batch.prompt_ids)
        sums["read_tokens"] += tokens_read(batch.prompt_ids, batch.completion_ids)
        sums["reward_sum"] += float(np.nansum(batch.reward_B, dtype=np.float64))
        sums["rewarded"] += int(np.isfinite(batch.reward_B).sum())
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums


def to_torch(batch: Batch, device: torch.device) -> Batch:
    """The same batch with tensors for arrays."""
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    ragged = {"prompt_ids", "completion_ids"}
    values |= {name: torch.from_numpy(one).to(device) for name, one in values.items() if name not in ragged}
    return Batch(**values)


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
        **measures(sums),
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
    labels: dict[str, str]  # the first columns of every row: student and round

    def published(self, model: lm.Model) -> lm.Model:
        """What is saved of a model in training: its average, if there is one."""
        return model if self.average is None else self.average.module


def open_run(
    scratch: Path,
    model: Path,
    moments: Path | None,
    p: OptimizerParams,
    *,
    labels: dict[str, str],
    first_step: int,
) -> tuple[lm.Model, "TrainState", int]:
    """Model, state and the step to go on from: those of the newest checkpoint, or of the round's beginning."""
    last, base = next(reversed(checkpoints(scratch)), None), adapter.base_of(model)
    if last is not None:
        model, moments, first_step = last / "model", last / "optimizer.pt", steps_done(last)
    loaded = lm.load_model(model, to_train=True, base=base)
    state = start(loaded, p, previous=moments, labels=labels)
    if last is not None:
        state.rows.extend(read_log(last / "train.csv"))
    return loaded, state, first_step


def start(model: lm.Model, p: OptimizerParams, *, previous: Path | None, labels: dict[str, str]) -> TrainState:
    """AdamW over the model, with the moments of the previous round where there is one.

    Where that has an average, `model` comes as that and leaves as the weights that the average is of.
    """
    optimizer = torch.optim.AdamW(
        _groups(model, p.weight_decay), lr=p.learning_rate, betas=(p.adam_beta1, p.adam_beta2), fused=True
    )
    average = None if p.ema_decay is None else averaging.average_of(model, p.ema_decay)
    if previous is not None:
        settings = [{name: group[name] for name in ("betas", "weight_decay")} for group in optimizer.param_groups]
        before = torch.load(previous, map_location=model.device, weights_only=True)
        optimizer.load_state_dict(before["optimizer"])
        for group, ours in zip(optimizer.param_groups, settings, strict=True):
            group.update(ours)
        if before["average"] is not None:
            averaging.restore(model, average, before["average"])
    return TrainState(optimizer=optimizer, average=average, rows=[], labels=labels)


def _groups(model: lm.Model, weight_decay: float) -> list[dict[str, Any]]:
    """The weights to train, those that decay and those that do not."""
    names = set(get_parameter_names(model, [torch.nn.LayerNorm], _NO_DECAY))
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[name in names].append(weight)
    return [{"params": of, "weight_decay": weight_decay if decays else 0.0} for decays, of in groups.items() if of]


def save(scratch: Path, model: lm.Model, state: TrainState, done: int) -> None:
    """Checkpoint after `done` steps, replacing the one before it."""
    with whole_directory(scratch / f"step-{done:08d}") as folder:
        lm.save_model(state.published(model), folder / "model")
        average = None if state.average is None else averaging.saved(model, state.average)
        with serialization.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]  # a third of the time
            torch.save({"optimizer": state.optimizer.state_dict(), "average": average}, folder / "optimizer.pt")
        write_log(folder / "train.csv", state.rows)
    for older in checkpoints(scratch)[:-1]:
        shutil.rmtree(older)


def checkpoints(scratch: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(scratch.glob("step-*"))


def steps_done(checkpoint: Path) -> int:
    """Global steps behind a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))
