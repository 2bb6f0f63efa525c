"""The training loop: optimizer steps of a round from batches, resumable at any step.

* One optimizer step takes one window of micro-batches. The loss is the sum over the window's tokens divided by their
  number, so the split into micro-batches changes nothing but rounding.
* The randomness of a step (dropout) is seeded by (seed, student, round, step), so a resumed round ends with the same
  bits.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_read
from pipeline.losses.batch import Batch
from pipeline.losses.objective import batch_loss
from pipeline.losses.staleness import is_stale, staleness_columns
from pipeline.models import language_model as lm
from pipeline.runtime.progress import Meter
from pipeline.training.checkpoint import TrainState, save_checkpoint
from pipeline.training.finite import check_start, check_state, check_step
from pipeline.training.log import Row
from pipeline.training.run import TrainingRun


def train(
    model: lm.Model, batches: Iterator[list[Batch]], state: TrainState, run: TrainingRun, scratch: Path, meter: Meter
) -> None:
    """Take the remaining steps of a round, and leave a checkpoint of the last one in `scratch`.

    A step that leaves the rollouts staler than `run.max_staleness` is the last of the round, whether this process or an
    earlier one took it.

    Args:
        model: the model, which is trained in place.
        batches: the micro-batches of each remaining step.
        state: the optimizer, and the log of the steps that were taken already; see `checkpoint.open_run`.
        run: the settings of the round.
        scratch: the directory of the round's checkpoints.
        meter: a progress bar in tokens that the model processes.

    Raises:
        ModelError: A weight is NaN or infinite before the first step.
        UserError: Training diverged. The step changed nothing, and the last checkpoint stays.
    """
    p, dtype = run.optimizer, lm.resolve_dtype(run.optimizer.precision)
    schedule = transformers.get_scheduler(p.lr_scheduler_type, state.optimizer, p.warmup_steps, p.decay_steps)
    check_start(model, run)
    model.train()
    if p.disable_dropout:
        lm.disable_dropout(model)
    if p.gradient_checkpointing:
        model.activation_checkpointing_enable()
    with _deterministic_sums(model.device):
        for step, window in zip(run.steps[len(state.rows) :], batches, strict=True):
            if state.rows and is_stale(state.rows[-1], run.max_staleness):
                break
            torch.manual_seed(derive_seed(*run.key, "step", step))
            # The schedule is a function of the global step, which the scheduler of a resumed run would not know.
            learning_rate = p.learning_rate * schedule.lr_lambdas[0](step + 1)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate
            sums = _backward(model, window, run, dtype)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), p.max_grad_norm)
            row = _row(run, step, sums, norm, learning_rate)
            check_step(row, run, scratch)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update_parameters(model)
            state.rows.append(row)
            meter.update(int(sums["read_tokens"]))
            meter.set_postfix(loss=f"{state.rows[-1]['loss']:.3f}", step=step + 1)
            last = step == run.steps[-1] or is_stale(state.rows[-1], run.max_staleness)
            if last or (step + 1) % p.save_steps == 0:
                check_state(model, state, run, scratch)
                save_checkpoint(scratch, model, state, step + 1, with_published=last and run.rounds_weights)


@contextmanager
def _deterministic_sums(device: torch.device) -> Iterator[None]:
    """Make torch add up gradients in a fixed order on a CPU.

    The gradient of a prompt that several completions share is a sum over all of them, which threads would otherwise add
    in the order in which they finish.
    """
    before, memory = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic
    filled = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    # Deterministic mode also fills new memory with NaN, which costs time and changes no result.
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _backward(model: lm.Model, window: list[Batch], run: TrainingRun, dtype: torch.dtype) -> Row:
    """Accumulate the gradient of the window's mean loss, and return sums over its tokens and sequences."""
    head, behaviour = lm.head_of(model, run.vocab_size), run.behaviour_temperature
    tokens = sum(len(batch.rows.token_ids_N) for batch in window)
    sums: Row = defaultdict(int, tokens=tokens)
    for batch in window:
        with lm.autocast(dtype):
            hidden_ND = lm.completion_hidden(model, batch.prompt_ids, batch.completion_ids)
            if batch.scored_N is not None:
                hidden_ND = hidden_ND.index_select(0, torch.from_numpy(batch.scored_N).to(model.device))
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
            sums[name] += value.item()
    return sums


def _row(run: TrainingRun, step: int, sums: Row, norm: Tensor, learning_rate: float) -> Row:
    """Return one row of the training log.

    Means are per token and in nats. A mean over nothing, such as the reward of a step without rewards, is None.
    """
    return {
        "student": run.student,
        "round": run.round_id,
        "step": step + 1,
        "loss": sums["loss_sum"] / sums["tokens"],
        "grad_norm": norm.item(),
        "learning_rate": learning_rate,
        "tokens": sums["tokens"],
        "read_tokens": sums["read_tokens"],
        "own_share": sums["own"] / sums["sequences"],
        **staleness_columns(sums),
        "teacher_tail": sums["teacher_tail_sum"] / sums["tokens"],
        "reward": sums["reward_sum"] / sums["rewarded"] if sums["rewarded"] else None,
        "gain_clipped": sums["clipped_tokens"] / sums["clippable_tokens"] if sums["clippable_tokens"] else None,
    }
