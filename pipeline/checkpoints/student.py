"""The first checkpoint of a student."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints.pruning import keep_layers
from pipeline.checkpoints.random_init import check_fields, random_model
from pipeline.core.hashing import model_fingerprint
from pipeline.models import lora as adapter
from pipeline.models.architectures import tied_head
from pipeline.models.lora import LoraParams


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentParams:
    """Where a student starts."""

    model: str
    """`teacher`, or whatever teacher.model takes. Its tokenizer must be the teacher's."""
    revision: str | None
    """Branch, tag or commit of a hub model."""
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None
    """Layers to keep, counted from 0; null keeps all. For an encoder-decoder one list for both, or a mapping from
    encoder and decoder to a list each."""
    config: dict[str, object] | None
    """Not null: random weights, from the model's configuration with these fields changed."""
    lora: LoraParams | None
    """Not null: all this is frozen, and the student is an adapter to it."""


def start_student(p: StudentParams, model: Any, *, seed: int, where: str) -> Any:
    """A student from the loaded model: cut to `layers`, or fresh from its configuration."""
    if p.config is not None:
        return _fresh(model, p.config, seed=seed, where=where)
    return model if p.layers is None else keep_layers(model, p.layers, where=f"{where}.layers")


def save_student(
    model: Any, tokenizer: Any, p: StudentParams, *, seed: int, base: Path, folder: Path, where: str
) -> None:
    """A student's first checkpoint: the model in `folder`, or frozen in `base` with a new adapter in `folder`.

    Without an adapter a line in `base` says so: DVC warns of an empty directory at every stage.
    """
    tokenizer.save_pretrained(folder)
    if p.lora is None:
        model.save_pretrained(folder)
        (base / "README.md").write_text("This student is no adapter: its checkpoints are whole models.\n")
        return
    model.to(getattr(torch, p.lora.base_dtype)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    torch.manual_seed(seed)
    made = adapter.attach(model, p.lora, revision=model_fingerprint(base), where=f"{where}.lora")
    adapter.save(made, folder)


def _fresh(model: Any, changes: dict[str, object], *, seed: int, where: str) -> Any:
    base = model.config
    check_fields(base, changes, where=where)
    fields = {**base.to_dict(), **changes}
    if fields.get("num_hidden_layers") != base.num_hidden_layers and "layer_types" not in changes:
        fields.pop("layer_types", None)  # one entry a layer: made anew by the configuration
    if "tie_word_embeddings" in changes:
        fields.pop("scale_decoder_outputs", None)  # T5's, which follows
    tied = bool(changes.get("tie_word_embeddings", tied_head(model)))
    return random_model(type(base), fields, tied=tied, seed=seed, where=where)
