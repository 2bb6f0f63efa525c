"""Run TRL's `DistillationTrainer`, or its experimental `GKDTrainer`, with a live teacher on our prompts.

TRL's own decisions are kept: it samples new completions with `generate()` at every step, one per prompt, and reads a
prompt with every completion. What it must share with the pipeline is set: divergence, optimizer, learning rate, the
tokens of the prompts, the token that ends a completion, and temperature 1. A callback keeps the pipeline's mean of
weights for the rows that have one. The benchmark needs `trl`, which is not locked: `pip install --no-deps trl==1.16.0`.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.clock import CLOCKS, now, since
from bench.end_to_end.setting import Setting
from pipeline.models import language_model as lm
from pipeline.models.forward import padded
from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.runtime.layout import LAYOUT
from pipeline.training.ema import average_of
from pipeline.training.optimizer import OptimizerParams

BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0}
"""TRL's `beta` of each divergence that the benchmarks compare."""

_MEAN = " with a mean of weights"
TRAINERS = tuple(name + mean for name in ("DistillationTrainer", "GKDTrainer") for mean in ("", _MEAN))
"""The names of TRL's rows."""

Report = Callable[[Any, int, dict[str, float], int], None]  # model, steps done, seconds, tokens read by the teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """What one kind of trainer needs beside models, tokenizer and callbacks."""

    trainer: Any
    """The class, which counts the tokens that the teacher reads."""

    config: Any
    """The class of its settings with those that this trainer alone has; the others are added in the call."""

    dataset: list[dict[str, Any]]

    options: Mapping[str, Any]


def has_trl() -> bool:
    """Return whether `trl` is installed."""
    return importlib.util.find_spec("trl") is not None


def gkd_of_trl() -> Any:
    """Return TRL's module, without its warning that it may change."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental import gkd

    return gkd


def averages(name: str) -> bool:
    """Return whether a row of TRL ends with a mean of weights."""
    return name.endswith(_MEAN)


def run_trl(
    name: str,
    student: Path,
    prompts: Sequence[list[int]],
    p: OptimizerParams,
    setting: Setting,
    seed: int,
    report: Report,
) -> None:
    """Train the student with work/teacher, and call `report` after every `setting.measure` steps.

    The clock runs from the loading of both models, and stops while `report` runs. A row with a mean of weights has the
    constant learning rate that the pipeline's mean has, and reports its mean; another row has the setting's schedule.
    The arguments are those of one run, which only `bench.end_to_end.quality` makes.
    """
    import datasets

    began, spent, read_tokens = now(), dict.fromkeys(CLOCKS, 0.0), [0]
    tokenizer, models = load_tokenizer(student), [lm.load_model(path) for path in (student, LAYOUT.teacher)]
    for model in models:
        model.generation_config.eos_token_id = list(eos_ids(tokenizer))
    average = average_of(models[0], setting.ema_decay or 0.0) if averages(name) else None

    class Reporting(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_held: Any) -> None:
            nonlocal began
            if average is not None:
                average.update_parameters(models[0])
            if state.global_step % setting.measure == 0 or state.global_step == setting.steps:
                spent.update({key: spent[key] + seconds for key, seconds in since(began).items()})
                trained = models[0] if average is None else average.module
                report(trained, state.global_step, dict(spent), read_tokens[0])
                began = now()

    setup = _SETUPS[name.removesuffix(_MEAN)](prompts, setting, read_tokens)
    with tempfile.TemporaryDirectory() as folder:
        config = setup.config(
            output_dir=folder,
            beta=BETAS[setting.divergence],
            temperature=1.0,
            per_device_train_batch_size=setting.batch,
            max_steps=setting.steps,
            learning_rate=p.learning_rate,
            lr_scheduler_type=setting.schedule if average is None else "constant",
            adam_beta1=p.adam_beta1,
            adam_beta2=p.adam_beta2,
            adam_epsilon=p.adam_epsilon,
            weight_decay=p.weight_decay,
            max_grad_norm=p.max_grad_norm,
            bf16=lm.resolve_dtype(p.precision) == torch.bfloat16,
            activation_checkpointing=setting.recompute,
            gradient_checkpointing=setting.recompute,  # the same by its old name, which TRL reads
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            use_cpu=lm.device().type == "cpu",
        )
        setup.trainer(
            model=models[0],
            teacher_model=models[1],
            args=config,
            train_dataset=datasets.Dataset.from_list(setup.dataset),
            processing_class=tokenizer,
            callbacks=[Reporting()],
            **setup.options,
        ).train()


def _distillation(prompts: Sequence[list[int]], setting: Setting, read_tokens: list[int]) -> _Setup:
    """Return the set-up of TRL's DistillationTrainer, whose prompts are already tokens."""
    import trl

    class CountingTrainer(trl.DistillationTrainer):  # type: ignore[misc]
        def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return prompts, None, {}

        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            read_tokens[0] += int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **named)

    return _Setup(
        trainer=CountingTrainer,
        config=partial(trl.DistillationConfig, max_completion_length=setting.tokens),
        dataset=[{"prompt": prompt_ids} for prompt_ids in prompts],
        options={},
    )


def _gkd(prompts: Sequence[list[int]], setting: Setting, read_tokens: list[int]) -> _Setup:
    """Return the set-up of TRL's GKDTrainer with its own completions alone (lmbda 1).

    Batches have no labels, because Trainer would divide the loss by the length of completions that are not trained on.
    """
    gkd = gkd_of_trl()

    class CountingTrainer(gkd.GKDTrainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            read_tokens[0] += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **named)

    return _Setup(
        trainer=CountingTrainer,
        config=partial(gkd.GKDConfig, lmbda=1.0, max_new_tokens=setting.tokens),
        dataset=[{"prompt_ids": prompt_ids} for prompt_ids in prompts],
        options={"data_collator": _collate},
    )


_SETUPS: dict[str, Callable[[Sequence[list[int]], Setting, list[int]], _Setup]] = {
    "DistillationTrainer": _distillation,
    "GKDTrainer": _gkd,
}


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of prompts for GKDTrainer, which replaces its ids and mask by those of its completions."""
    ids_BP, mask_BP = padded([row["prompt_ids"] for row in rows], left=True)
    return {"prompts": ids_BP, "prompt_attention_mask": mask_BP, "input_ids": ids_BP, "attention_mask": mask_BP}
