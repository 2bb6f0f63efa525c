"""Time and memory of a training step from the store, beside a cross-entropy step and TRL's step with a live teacher.

    python -m bench.loss.step --json FILE

* All rows have the same student and the same batches, and include reading a segment, the forward and backward pass,
  gradient clipping and AdamW.
* The cross-entropy is `model(input_ids, attention_mask, labels)`. TRL's rows are `GKDTrainer.compute_loss` and the loss
  of `DistillationTrainer` on given completions (forward KL), where `trl` is installed
  (`pip install --no-deps --target DIR trl==1.16.0`, and PYTHONPATH=DIR). All three process a prompt once for each of
  its completions, as their collators do.
* Models are random and have the shapes of the default job; scores are synthetic.
* Seconds are the median over all steps but the first, in wall-clock time and in processor time (all threads; on a busy
  machine only these are meaningful). Each row runs in a subprocess, which reports its peak of resident memory.
"""

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import click
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.clock import CLOCKS, now
from bench.end_to_end.trl_trainers import gkd_of_trl, has_trl
from bench.output import Row, show
from bench.store.segments import placeholder_header, synthetic_scores
from bench.subprocess_run import peak_bytes, run_in_subprocess
from pipeline.core.types import Rollout, ScoredSequence
from pipeline.losses.objective import ObjectiveParams
from pipeline.models import language_model as lm
from pipeline.models.forward import padded
from pipeline.runtime.config import parse
from pipeline.runtime.progress import bar
from pipeline.runtime.yaml_files import read_yaml
from pipeline.store.ragged import split_scores
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.training.batches import BatchParams, Pick, iter_batches, make_pool, open_pool, plan_steps
from pipeline.training.checkpoint import make_state
from pipeline.training.loop import train
from pipeline.training.optimizer import OptimizerParams
from pipeline.training.run import TrainingRun

_PARAMS = Path(__file__).parents[2] / "params.yaml"
_RATIOS = {"seconds": "of_cross_entropy", "seconds_of_processor": "of_cross_entropy_of_processor"}
Steps: TypeAlias = Sequence[Sequence[Rollout]]
Times: TypeAlias = dict[str, float]  # by each clock
Loss: TypeAlias = Callable[[Any, "PaddedBatch"], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """The sequences of a step: whole, padded on the right; and in two parts, the prompts padded on the left."""

    ids_BS: Tensor
    mask_BS: Tensor
    labels_BS: Tensor
    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of models and batches."""

    width: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int
    teacher_layers: int
    vocab: int
    batch: int
    samples: int  # completions per prompt
    prompt: int  # tokens
    completion: int
    steps: int
    precision: str


class _EnoughError(Exception):
    """The last step is over. The training loop would write a checkpoint next, which is not measured."""


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--width", default=576, show_default=True)
@click.option("--intermediate", default=1536, show_default=True)
@click.option("--heads", default=9, show_default=True)
@click.option("--kv-heads", default=3, show_default=True)
@click.option("--layers", default=13, show_default=True)
@click.option("--teacher-layers", default=30, show_default=True)
@click.option("--vocab", default=49152, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--samples", default=2, show_default=True, help="Completions that share a prompt.")
@click.option("--prompt", default=110, show_default=True)
@click.option("--completion", default=40, show_default=True)
@click.option("--steps", default=5, show_default=True, help="Measured steps, after one that is not measured.")
@click.option("--precision", type=click.Choice(["auto", "bfloat16", "float32"]), default="auto", show_default=True)
@click.option("--only", help="Measure one row in this process, and print it as a line of JSON.")
def main(out: Path | None, only: str | None, **sizes: Any) -> None:
    """Run the benchmark and print its table."""
    shape = Shape(**sizes)
    if only is not None:
        click.echo(json.dumps(_measured(only, shape)))
        return
    names = [name for name in _ROWS if name not in _TRL or has_trl()]
    rows = [run_in_subprocess("bench.loss.step", name, **asdict(shape)) for name in names]
    plain = next(row for row in rows if row["name"] == "cross-entropy")
    rows = [row | {ratio: row[key] / plain[key] for key, ratio in _RATIOS.items()} for row in rows]
    table = [["step", "seconds", "of the cross-entropy's", "processor, s", "of the cross-entropy's", "peak MB"]]
    for row in rows:
        numbers = [f"{row[key]:.3f}" for pair in _RATIOS.items() for key in pair]
        table.append([row["name"], *numbers, f"{row['peak_mb']:.0f}"])
    show(table, rows, out, shape=asdict(shape))
    if not has_trl():
        click.echo("trl is not installed: no rows for its steps")


def _measured(name: str, shape: Shape) -> Row:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        ends = _ROWS[name](shape, Path(folder))
    steps = [*itertools.pairwise(ends)]
    seconds = {key: statistics.median(after[key] - before[key] for before, after in steps) for key in CLOCKS}
    return {"name": name, "peak_mb": peak_bytes() / 1e6, "steps": len(steps)} | seconds


def _from_the_store(shape: Shape, folder: Path) -> list[Times]:
    """Run the training loop without its checkpoint, and return the times at which steps ended."""
    planned = _planned(shape, folder)
    model, ends = _model(shape, shape.layers), list[Times]()
    objective, p = _settings(shape)
    run = TrainingRun(
        student="student",
        round_id="r1",
        steps=range(len(planned) + 1),
        start=folder,
        optimizer_state=None,
        objective=objective,
        optimizer=p,
        batches=_batches(shape),
        replay=None,
        seed=0,
        vocab_size=shape.vocab,
        behaviour_temperature=None,
        max_staleness=None,
        saved_dtype=None,
    )
    state = make_state(model, p, previous=None)
    state.optimizer.register_step_post_hook(lambda *_: ends.append(now()))

    def batches() -> Iterator[Any]:
        yield from iter_batches(planned, temperature=1.0, column=0)
        raise _EnoughError

    try:
        with bar("step", None) as meter:
            train(model, batches(), state, run, folder, meter)
    except _EnoughError:
        return ends
    raise AssertionError("the loop went on after the last batch")


def _cross_entropy(shape: Shape, folder: Path) -> list[Times]:
    def loss(model: Any, batch: PaddedBatch) -> Tensor:
        inputs = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS, "labels": batch.labels_BS}
        cross_entropy: Tensor = model(**inputs).loss
        return cross_entropy

    return _padded_steps(shape, folder, loss)


def _trl_gkd(shape: Shape, folder: Path) -> list[Times]:
    teacher, gkd = _model(shape, shape.teacher_layers), gkd_of_trl().GKDTrainer
    trainer = SimpleNamespace(
        teacher_model=teacher, beta=0.0, generalized_jsd_loss=gkd.generalized_jsd_loss, temperature=1.0
    )

    def loss(model: Any, batch: PaddedBatch) -> Tensor:
        inputs = {"input_ids": batch.ids_BS, "attention_mask": batch.mask_BS, "labels": batch.labels_BS}
        jsd: Tensor = gkd.compute_loss(trainer, model, inputs)
        return jsd

    return _padded_steps(shape, folder, loss)


def _trl_distillation(shape: Shape, folder: Path) -> list[Times]:
    """Take steps with the loss of TRL's DistillationTrainer, without the trainer around it."""
    from trl import DistillationTrainer

    trainer = SimpleNamespace(
        teacher_model=_model(shape, shape.teacher_layers),
        beta=0.0,
        temperature=1.0,
        accelerator=SimpleNamespace(unwrap_model=lambda model: model, is_main_process=False),
        model_kwarg_keys=(),
        _is_vlm=False,
        _forward_redirection=lambda _wrapper, _model, method, *inputs, **named: method(*inputs, **named),
    )
    trainer._get_last_hidden_state = partial(DistillationTrainer._get_last_hidden_state, trainer)

    def loss(model: Any, batch: PaddedBatch) -> Tensor:
        inputs = {
            "prompt_ids": batch.prompt_ids_BP,
            "prompt_mask": batch.prompt_mask_BP,
            "completion_ids": batch.completion_ids_BT,
            "completion_mask": batch.completion_mask_BT,
        }
        divergence: Tensor = DistillationTrainer._compute_loss(trainer, model, inputs, None)[0]
        return divergence

    return _padded_steps(shape, folder, loss)


_ROWS: dict[str, Callable[[Shape, Path], list[Times]]] = {
    "cross-entropy": _cross_entropy,
    "stillroom": _from_the_store,
    "TRL's DistillationTrainer": _trl_distillation,
    "TRL's GKDTrainer": _trl_gkd,
}
_TRL = {name for name in _ROWS if name.startswith("TRL")}


def _padded_steps(shape: Shape, folder: Path, loss: Loss) -> list[Times]:
    """Take steps on padded batches of whole sequences, and return the times at which they ended."""
    _, p = _settings(shape)
    model, dtype = _model(shape, shape.layers).train(), lm.resolve_dtype(p.precision)
    optimizer, ends = make_state(model, p, previous=None).optimizer, list[Times]()
    for batch in _padded_batches(_planned(shape, folder)):
        with lm.autocast(dtype):
            value = loss(model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        value.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), p.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ends.append(now())
    return ends


def _padded_batches(planned: Iterable[Sequence[Sequence[Pick]]]) -> Iterator[PaddedBatch]:
    """Yield the padded batch of each step."""
    for step in planned:
        rollouts = [pool.rollouts[row] for picks in step for pool, row in picks]
        ids_BS, mask_BS = padded([rollout.prompt_ids + rollout.completion_ids for rollout in rollouts], left=False)
        labels_BS = ids_BS.masked_fill(mask_BS == 0, -100)
        for labels_S, rollout in zip(labels_BS, rollouts, strict=True):
            labels_S[: len(rollout.prompt_ids)] = -100
        prompt_ids_BP, prompt_mask_BP = padded([rollout.prompt_ids for rollout in rollouts], left=True)
        completion_ids_BT, completion_mask_BT = padded([rollout.completion_ids for rollout in rollouts], left=False)
        tensors = {
            "ids_BS": ids_BS,
            "mask_BS": mask_BS,
            "labels_BS": labels_BS,
            "prompt_ids_BP": prompt_ids_BP,
            "prompt_mask_BP": prompt_mask_BP,
            "completion_ids_BT": completion_ids_BT,
            "completion_mask_BT": completion_mask_BT,
        }
        yield PaddedBatch(**{name: tensor.to(lm.device()) for name, tensor in tensors.items()})


def _settings(shape: Shape) -> tuple[ObjectiveParams, OptimizerParams]:
    """Return the settings of the default job that do not belong to the shape."""
    document = read_yaml(_PARAMS)
    objective = parse(ObjectiveParams, document["objective"], where="objective")
    optimizer = document["optimizer"] | {"precision": shape.precision}
    return objective, parse(OptimizerParams, optimizer, where="optimizer")


def _batches(shape: Shape) -> BatchParams:
    sizes = {"batch_size": shape.batch, "micro_batch_size": shape.batch, "student_fraction": 1.0}
    return parse(BatchParams, read_yaml(_PARAMS)["batches"] | sizes, where="batches")


def _model(shape: Shape, layers: int) -> Any:
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    attention = "eager" if lm.device().type == "cpu" else None  # as lm.load_model has it for training
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(lm.device())


def _planned(shape: Shape, folder: Path) -> list[list[list[Pick]]]:
    """Return the sequences of all steps, from a segment on disk; every sequence occurs once.

    The first step is not measured.
    """
    rollouts, p = _rollouts(shape), _batches(shape)
    rng, lengths = np.random.default_rng(1), [len(rollout.completion_ids) for rollout in rollouts]
    parts = split_scores(synthetic_scores(rng, sum(lengths), shape.vocab), np.array(lengths))
    sequences = [ScoredSequence(rollout=rollout, scores=part) for rollout, part in zip(rollouts, parts, strict=True)]
    write_segment(folder / "segment", sequences, placeholder_header("sqrt8", shape.vocab), rng.permutation(shape.vocab))
    segment = Segment.open(folder / "segment")
    own, corpus = open_pool(rollouts, segment, p), make_pool([], segment, p)
    return plan_steps(own, corpus, p, key=(0,), steps=range(shape.steps + 1), replay=0.0)


def _rollouts(shape: Shape) -> list[Rollout]:
    """Return random prompts and completions with lengths from half of the shape's length to all of it."""
    rng, rollouts = np.random.default_rng(0), []
    for number in range((shape.steps + 1) * shape.batch):
        if number % shape.samples == 0:
            prompt = rng.integers(0, shape.vocab, rng.integers(shape.prompt // 2, shape.prompt + 1)).tolist()
        completion = rng.integers(0, shape.vocab, rng.integers(shape.completion // 2, shape.completion + 1)).tolist()
        rollouts.append(
            Rollout(
                rollout_id=str(number),
                prompt_id=str(number // shape.samples),
                source="student",
                policy="",
                prompt_ids=prompt,
                completion_ids=completion,
                behaviour_logp=[-1.0] * len(completion),
                finished=False,
                text="",
            )
        )
    return rollouts


if __name__ == "__main__":
    main()
