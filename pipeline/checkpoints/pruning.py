"""Cut a model by keeping some of its layers."""

from typing import Any

import torch

from pipeline.models.architectures import count_layers, stacks
from pipeline.runtime.errors import ParameterError


def keep_layers(model: Any, layers: tuple[int, ...] | dict[str, tuple[int, ...]], *, where: str) -> Any:
    """Depth pruning: keep these layers in this order, and everything outside them.

    A list is for every stack of the model; a mapping names encoder or decoder, and leaves the other whole.
    """
    parts = stacks(model)
    chosen = dict.fromkeys(parts, layers) if isinstance(layers, tuple) else layers
    if unknown := [side for side in chosen if side not in parts]:
        raise ParameterError(
            where, expected=f"layers of: {', '.join(parts)}", got=repr(unknown[0]), remedy="mend params.yaml"
        )
    for side, kept in chosen.items():
        _keep(parts[side], kept, where=where if isinstance(layers, tuple) else f"{where}.{side}")
    count_layers(model.config, {side: len(kept) for side, kept in chosen.items()})
    if getattr(model.config, "layer_types", None) and "decoder" in chosen:
        model.config.layer_types = [model.config.layer_types[one] for one in chosen["decoder"]]
    return model


def _keep(stack: Any, layers: tuple[int, ...], *, where: str) -> None:
    lists = {name: child for name, child in stack.named_children() if isinstance(child, torch.nn.ModuleList)}
    name, every = max(lists.items(), key=lambda item: len(item[1]))
    if not layers or any(not 0 <= one < len(every) for one in layers) or sorted(set(layers)) != list(layers):
        raise ParameterError(
            where,
            expected=f"ascending layer numbers from 0 to {len(every) - 1}",
            got=list(layers),
            remedy="mend params.yaml",
        )
    kept = torch.nn.ModuleList([every[one] for one in layers])
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__["layer_idx"] = place  # where its keys and values are kept
    _inherit_positions(every[0], kept[0])
    setattr(stack, name, kept)


def _inherit_positions(old: Any, new: Any) -> None:
    """T5's first layer holds the relative positions of all: where it goes, the new first layer gets them."""
    for name, module in old.named_modules():
        heir = new.get_submodule(name)
        if getattr(module, "has_relative_attention_bias", False) and not heir.has_relative_attention_bias:
            heir.has_relative_attention_bias = True
            heir.relative_attention_bias = module.relative_attention_bias
