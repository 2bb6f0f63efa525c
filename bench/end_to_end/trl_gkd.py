"""Run TRL's GKDTrainer with a live teacher on our prompts: on-policy (lmbda 1), forward KL (beta 0), temperature 1.

TRL's own decisions are kept: it reads a prompt with every completion, samples with `generate()` and computes all logits
at once. What it must share with the pipeline is set: optimizer, learning rate, the tokens of the prompts, and the token
that ends a completion. Batches have no labels, because Trainer would divide the loss by the length of completions that
are not trained on. The benchmark needs `trl`, which is not locked: `pip install --no-deps trl`.
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
from bench.end_to_end.setting import Setting
from pipeline.models import language_model as lm
from pipeline.models.forward import padded
from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.runtime.layout import LAYOUT
from pipeline.training.optimizer import OptimizerParams

Report = Callable[[Any, int, dict[str, float], int], None]  # model, steps done, seconds, tokens read by the teacher


def has_trl() -> bool:
    """Return whether `trl` is installed."""
    return importlib.util.find_spec("trl") is not None


def gkd_of_trl() -> Any:
    """Return TRL's module, without its warning that it may change."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental import gkd

    return gkd


def run_gkd(
    student: Path, prompts: Sequence[list[int]], p: OptimizerParams, setting: Setting, seed: int, report: Report
) -> None:
    """Train the student with work/teacher, and call `report` after every `setting.measure` steps.

    The clock runs from the loading of both models, and stops while `report` runs. The learning rate is `p`'s, with the
    schedule of the setting.
    """
    import datasets

    gkd = gkd_of_trl()
    began, spent, read_tokens = now(), dict.fromkeys(CLOCKS, 0.0), [0]
    tokenizer, models = load_tokenizer(student), [lm.load_model(path) for path in (student, LAYOUT.teacher)]
    for model in models:
        model.generation_config.eos_token_id = list(eos_ids(tokenizer))

    class CountingTrainer(gkd.GKDTrainer):  # type: ignore[misc, name-defined]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            read_tokens[0] += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *rest, **named)

    class Reporting(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **held: Any) -> None:
            nonlocal began
            if state.global_step % setting.measure == 0 or state.global_step == setting.steps:
                spent.update({key: spent[key] + seconds for key, seconds in since(began).items()})
                report(held["model"], state.global_step, dict(spent), read_tokens[0])
                began = now()

    with tempfile.TemporaryDirectory() as folder:
        config = gkd.GKDConfig(
            output_dir=folder,
            lmbda=1.0,
            beta=0.0,
            temperature=1.0,
            max_new_tokens=setting.tokens,
            per_device_train_batch_size=setting.batch,
            max_steps=setting.steps,
            learning_rate=p.learning_rate,
            lr_scheduler_type=setting.schedule,
            adam_beta1=p.adam_beta1,
            adam_beta2=p.adam_beta2,
            adam_epsilon=p.adam_epsilon,
            weight_decay=p.weight_decay,
            max_grad_norm=p.max_grad_norm,
            bf16=lm.resolve_dtype(p.precision) == torch.bfloat16,
            activation_checkpointing=False,  # TRL's default recomputes the layers and generates without a cache
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            use_cpu=lm.device().type == "cpu",
        )
        CountingTrainer(
            model=models[0],
            teacher_model=models[1],
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt_ids": prompt_ids} for prompt_ids in prompts]),
            processing_class=tokenizer,
            data_collator=_collate,
            callbacks=[Reporting()],
        ).train()


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Return a batch of prompts for GKDTrainer, which replaces its ids and mask by those of its completions."""
    ids_BP, mask_BP = padded([row["prompt_ids"] for row in rows], left=True)
    return {"prompts": ids_BP, "prompt_attention_mask": mask_BP, "input_ids": ids_BP, "attention_mask": mask_BP}
