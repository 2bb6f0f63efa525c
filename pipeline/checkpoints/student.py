"""Make the first checkpoint of a student."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints.layer_fields import resized_fields
from pipeline.checkpoints.pruning import keep_layers
from pipeline.checkpoints.random_init import check_fields, random_model
from pipeline.core.hashing import model_fingerprint
from pipeline.models import lora
from pipeline.models.architectures import tied_head
from pipeline.models.lora import LoraParams
from pipeline.models.round_trip import check_written, in_dtype, probe_logits
from pipeline.models.tokenizer import save_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentParams:
    """A student before its first round. The stage `plan` writes the defaults out, to work/students."""

    model: str
    """`teacher`, or any value of teacher.model that is a name. Its tokenizer must be the teacher's."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None
    """Layers to keep, counted from 0, for both or by encoder and decoder; null keeps all."""
    config: dict[str, object] | None = None
    """Not null: random weights, from the model's configuration with these fields changed."""
    lora: LoraParams | None = None
    """Not null: the model is frozen, and the student is an adapter to it; {} is an adapter with the defaults."""
    optimizer: dict[str, object] = field(default_factory=dict)
    """Keys of the section `optimizer` that have another value for this student, such as learning_rate."""


def start_student(p: StudentParams, model: Any, *, seed: int, where: str) -> Any:
    """Return a student made from a loaded model: pruned to `layers`, or randomly initialised from its configuration.

    Raises:
        ParameterError: When the model has no such layers, or the configuration makes no model.
    """
    if p.config is not None:
        return _randomly_initialised(model, p.config, seed=seed, where=where)
    return model if p.layers is None else keep_layers(model, p.layers, where=f"{where}.layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStudent:
    """A student in memory, whose first checkpoint is to be written."""

    model: Any
    tokenizer: Any
    params: StudentParams
    seed: int  # of a new adapter's weights
    where: str  # the student's section of params.yaml, for messages

    def save(self, base: Path, checkpoint: Path) -> None:
        """Write the model to `checkpoint`; with LoRA freeze it in `base` and write a new adapter to `checkpoint`.

        Without LoRA `base` gets one line of text, because DVC warns of an empty directory at every stage.

        Raises:
            ParameterError: When the adapter's target modules do not exist in the model.
            ModelError: When the directories, read again, give another model.
        """
        p = self.params.lora
        if p is None:
            self.model.save_pretrained(checkpoint)
            save_tokenizer(self.tokenizer, checkpoint)
            (base / "README.md").write_text(
                "This student is no adapter: its checkpoints are whole models.\n", encoding="utf-8"
            )
            check_written(checkpoint, probe_logits(self.model), where=self.where)
            return
        in_dtype(self.model, getattr(torch, p.base_dtype)).save_pretrained(base)
        save_tokenizer(self.tokenizer, base)
        torch.manual_seed(self.seed)
        adapter = lora.attach(self.model, p, revision=model_fingerprint(base), where=f"{self.where}.lora")
        lora.save(adapter, checkpoint)
        save_tokenizer(self.tokenizer, checkpoint)
        check_written(checkpoint, probe_logits(adapter), where=self.where, base=base)


def _randomly_initialised(model: Any, changes: dict[str, object], *, seed: int, where: str) -> Any:
    check_fields(model.config, changes, where=where)
    fields = {**resized_fields(model.config, changes), **changes}
    # T5's configuration derives the scale of a tied head again.
    if "tie_word_embeddings" in changes:
        fields.pop("scale_decoder_outputs", None)
    tied = bool(changes.get("tie_word_embeddings", tied_head(model)))
    return random_model(type(model.config), fields, tied=tied, seed=seed, where=where)
