"""TRL's GKDTrainer with a live teacher, on our prompts: on-policy (lmbda 1), forward KL (beta 0), temperature 1.

What TRL decides stays TRL's: it reads prompts with every completion, samples with `generate()`, computes all logits at
once. What it must share with the pipeline is set: optimizer, learning rate, prompts token by token, where a completion
ends. Labels are left out of the batches: with them, Trainer would divide the loss by the length of completions that are
not trained on. Needs `trl`, which is not locked: `pip install --no-deps trl`.
"""

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from pipeline import lm
from pipeline.passes import padded
from pipeline.text import eos_ids, load_tokenizer
from pipeline.training import OptimizerParams

Told = Callable[[Any, int, float, int], None]  # model, steps done, seconds, tokens that the teacher read


def has_trl() -> bool:
    """Whether there is anything to measure."""
    return importlib.util.find_spec("trl") is not None


def run_gkd(
    student: Path,
    teacher: Path,
    prompts: Sequence[list[int]],
    p: OptimizerParams,
    *,
    batch: int,
    tokens: int,
    steps: int,
    every: int,
    seed: int,
    tell: Told,
) -> None:
    """Train; `tell` hears after every so many steps, off the clock, which runs from the loading of both models."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import datasets
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    began, read = time.perf_counter(), [0]
    tokenizer, models = load_tokenizer(student), [lm.load_model(path) for path in (student, teacher)]
    for model in models:
        model.generation_config.eos_token_id = list(eos_ids(tokenizer))

    class Counting(GKDTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            read[0] += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **named)

    class Telling(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **held: Any) -> None:
            nonlocal began
            if state.global_step % every == 0 or state.global_step == steps:
                stopped = time.perf_counter()
                tell(held["model"], state.global_step, stopped - began, read[0])
                began += time.perf_counter() - stopped

    with tempfile.TemporaryDirectory() as folder:
        given = GKDConfig(
            output_dir=folder,
            lmbda=1.0,
            beta=0.0,
            temperature=1.0,
            max_new_tokens=tokens,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=p.learning_rate,
            lr_scheduler_type="constant",
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
