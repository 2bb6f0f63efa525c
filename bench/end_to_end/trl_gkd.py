"""TRL's GKDTrainer with a live teacher, on our prompts: on-policy (lmbda 1), forward KL (beta 0), temperature 1.

What TRL decides stays TRL's: it reads prompts with every completion, samples with `generate()`, computes all logits at
once. What it must share with the pipeline is set: optimizer, learning rate, prompts token by token, where a completion
ends. Labels are left out of the batches: with them, Trainer would divide the loss by the length of completions that are
not trained on. Needs `trl`, which is not locked: `pip install --no-deps trl`.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.clock import CLOCKS, now, since
from pipeline.models import language_model as lm
from pipeline.models.forward import padded
from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.training.loop import OptimizerParams

Told = Callable[[Any, int, dict[str, float], int], None]  # model, steps done, seconds, tokens that the teacher read


def has_trl() -> bool:
    """Whether there is anything to measure."""
    return importlib.util.find_spec("trl") is not None


def gkd_of_trl() -> Any:
    """TRL's module, without its word that it may change."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental import gkd

    return gkd


def run_gkd(
    student: Path,
    teacher: Path,
    prompts: Sequence[list[int]],
    p: OptimizerParams,
    *,
    schedule: str,
    batch: int,
    tokens: int,
    steps: int,
    every: int,
    seed: int,
    tell: Told,
) -> None:
    """Train; `tell` hears after every so many steps, off the clock, which runs from the loading of both models.

    `schedule` of the learning rate, by transformers' name: linear, TRL's default, goes from p's down to 0.
    """
    import datasets

    gkd = gkd_of_trl()
    began, spent, read = now(), dict.fromkeys(CLOCKS, 0.0), [0]
    tokenizer, models = load_tokenizer(student), [lm.load_model(path) for path in (student, teacher)]
    for model in models:
        model.generation_config.eos_token_id = list(eos_ids(tokenizer))

    class Counting(gkd.GKDTrainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            read[0] += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **named)

    class Telling(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **held: Any) -> None:
            nonlocal began
            if state.global_step % every == 0 or state.global_step == steps:
                spent.update({key: spent[key] + seconds for key, seconds in since(began).items()})
                tell(held["model"], state.global_step, dict(spent), read[0])
                began = now()

    with tempfile.TemporaryDirectory() as folder:
        given = gkd.GKDConfig(
            output_dir=folder,
            lmbda=1.0,
            beta=0.0,
            temperature=1.0,
            max_new_tokens=tokens,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=p.learning_rate,
            lr_scheduler_type=schedule,
            adam_beta1=p.adam_beta1,
            adam_beta2=p.adam_beta2,
            weight_decay=p.weight_decay,
            max_grad_norm=p.max_grad_norm,
            bf16=lm.resolve_dtype(p.precision) == torch.bfloat16,
            activation_checkpointing=False,  # TRL's default computes the layers again, and generates without a cache
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            use_cpu=lm.device().type == "cpu",
        )
        Counting(
            model=models[0],
            teacher_model=models[1],
            args=given,
            train_dataset=datasets.Dataset.from_list([{"prompt_ids": one} for one in prompts]),
            processing_class=tokenizer,
            data_collator=_collate,
            callbacks=[Telling()],
        ).train()


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """What GKDTrainer generates from; ids and mask of the batch are the prompts until it has."""
    ids_BP, mask_BP = padded([row["prompt_ids"] for row in rows], left=True)
    return {"prompts": ids_BP, "prompt_attention_mask": mask_BP, "input_ids": ids_BP, "attention_mask": mask_BP}
