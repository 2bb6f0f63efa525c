"""Cut a model by keeping some of its layers."""

from typing import Any

import torch

from pipeline.models.architectures import count_layers, stacks
from pipeline.runtime.errors import ParameterError


def keep_layers(model: Any, layers: tuple[int, ...] | dict[str, tuple[int, ...]], *, where: str) -> Any:
    """Keep the named layers in their order, and everything outside the layers (depth pruning).

    Args:
        model: A transformers model, which is changed in place.
        layers: Ascending layer numbers for every stack of the model, or a mapping from `encoder` or `decoder` to such
            numbers, which leaves the other stack whole.
        where: The parameter that names the layers, for messages.

    Returns:
        The same model.

    Raises:
        ParameterError: When the model has no such stack or no such layer, or the numbers do not ascend.
    """
    parts = stacks(model)
    layers_of = dict.fromkeys(parts, layers) if isinstance(layers, tuple) else layers
    if unknown := [side for side in layers_of if side not in parts]:
        raise ParameterError(where, expected=f"layers of: {', '.join(parts)}", got=repr(unknown[0]))
    for side, numbers in layers_of.items():
        _cut(parts[side], numbers, where=where if isinstance(layers, tuple) else f"{where}.{side}")
    count_layers(model.config, {side: len(numbers) for side, numbers in layers_of.items()})
    if getattr(model.config, "layer_types", None) and "decoder" in layers_of:
        model.config.layer_types = [model.config.layer_types[number] for number in layers_of["decoder"]]
    return model


def _cut(stack: Any, numbers: tuple[int, ...], *, where: str) -> None:
    lists = {name: child for name, child in stack.named_children() if isinstance(child, torch.nn.ModuleList)}
    name, layers = max(lists.items(), key=lambda item: len(item[1]))
    if not numbers or not set(numbers) <= set(range(len(layers))) or sorted(set(numbers)) != list(numbers):
        expected = f"ascending layer numbers from 0 to {len(layers) - 1}"
        raise ParameterError(where, expected=expected, got=list(numbers))
    remaining = torch.nn.ModuleList([layers[number] for number in numbers])
    # An attention layer finds its keys and values in the cache by its index.
    for index, layer in enumerate(remaining):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.__dict__["layer_idx"] = index
    _inherit_positions(layers[0], remaining[0])
    setattr(stack, name, remaining)


def _inherit_positions(old: Any, new: Any) -> None:
    """Give the new first layer the relative positions of all layers, which T5 keeps in its first layer."""
    for name, module in old.named_modules():
        heir = new.get_submodule(name)
        if getattr(module, "has_relative_attention_bias", False) and not heir.has_relative_attention_bias:
            heir.has_relative_attention_bias = True
            heir.relative_attention_bias = module.relative_attention_bias
