"""Cut a model by keeping some of its layers.

* Guarantee: a model built from the cut configuration has the same layers as the cut model, in every module, shape and
  setting. So the files that are written describe what is in memory; a cut for which that fails is refused.
* Cost: one model without weights.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pipeline.checkpoints.layer_fields import cut_fields
from pipeline.models.architectures import stacks
from pipeline.runtime.errors import ParameterError

_Numbers = tuple[int, ...]
_PLACE = re.compile(r"layer|idx|index")
# These follow from the layers that are kept: how many, and whether a later layer uses a layer's keys.
_FOLLOWING = {"store_full_length_kv", "num_hidden_layers", "num_layers"}
_LAYER_COUNT = re.compile(r"n(um)?_(hidden_)?layers?")
# The part of a multimodal model that reads no text.
_TOWER = re.compile("vision|visual|image|audio")
# Weights outside the layers with a block of rows or columns per layer (Gemma 3n).
_PER_LAYER = ("embed_tokens_per_layer", "per_layer_model_projection")


def keep_layers(model: Any, layers: _Numbers | dict[str, _Numbers], *, where: str) -> Any:
    """Keep the named layers in their order, and everything outside the layers (depth pruning).

    Args:
        model: A transformers model, which is changed in place.
        layers: Ascending layer numbers for every stack of the model, or a mapping from `encoder` or `decoder` to such
            numbers, which leaves the other stack whole.
        where: The parameter that names the layers, for messages.

    Returns:
        The same model.

    Raises:
        ParameterError: When the model has no such stack or no such layer, the numbers do not ascend, or the
            configuration cannot describe these layers.
    """
    parts = stacks(model)
    layers_of = dict.fromkeys(parts, layers) if isinstance(layers, tuple) else layers
    if unknown := [side for side in layers_of if side not in parts]:
        raise ParameterError(where, expected=f"layers of: {', '.join(parts)}", got=repr(unknown[0]))
    totals = {
        side: _check(parts[side], numbers, where=where if isinstance(layers, tuple) else f"{where}.{side}")
        for side, numbers in layers_of.items()
    }
    for side, numbers in layers_of.items():
        cut_fields(model.config, side, numbers, totals[side])
    shell = _shell(model, where=where)
    for side, numbers in layers_of.items():
        _cut(parts[side], numbers, totals[side])
        _settle(parts[side], stacks(shell)[side], numbers, where=where)
    _compare_shapes(model, shell, where=where)
    return model


def layer_lists(stack: Any) -> dict[str, torch.nn.ModuleList]:
    """Return the lists of a stack that have an entry per layer, by their path; XLM has several."""
    lists = dict(_outer_lists(stack))
    longest = max((len(layers) for layers in lists.values()), default=0)
    return {path: layers for path, layers in lists.items() if len(layers) == longest}


def _outer_lists(module: Any, prefix: str = "") -> Iterator[tuple[str, torch.nn.ModuleList]]:
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ModuleList):
            yield f"{prefix}{name}", child
        elif not _TOWER.search(name):
            yield from _outer_lists(child, f"{prefix}{name}.")


def _check(stack: Any, numbers: _Numbers, *, where: str) -> int:
    """Return the number of a stack's layers."""
    total = len(next(iter(layer_lists(stack).values()), []))
    if not numbers or not set(numbers) <= set(range(total)) or sorted(set(numbers)) != list(numbers):
        expected = f"ascending layer numbers from 0 to {total - 1}"
        raise ParameterError(where, expected=expected, got=list(numbers))
    return total


def _cut(stack: Any, numbers: _Numbers, total: int) -> None:
    for path, layers in layer_lists(stack).items():
        remaining = torch.nn.ModuleList([layers[number] for number in numbers])
        _inherit_positions(layers[0], remaining[0])
        parent, _, name = path.rpartition(".")
        setattr(stack.get_submodule(parent), name, remaining)
    for name in _PER_LAYER:
        if (module := getattr(stack, name, None)) is not None:
            axis = 1 if isinstance(module, torch.nn.Embedding) else 0
            blocks = module.weight.data.chunk(total, axis)
            module.weight.data = torch.cat([blocks[number] for number in numbers], axis).contiguous()


def _inherit_positions(old: Any, new: Any) -> None:
    """Give the new first layer the relative positions of all layers, which T5 keeps in its first layer."""
    for name, module in old.named_modules():
        if getattr(module, "has_relative_attention_bias", False):
            heir = new.get_submodule(name)
            if not heir.has_relative_attention_bias:
                heir.has_relative_attention_bias = True
                heir.relative_attention_bias = module.relative_attention_bias


def _shell(model: Any, *, where: str) -> Any:
    """Return the model that the configuration describes as it will be read again, without weights."""
    try:
        config = type(model.config).from_dict(copy.deepcopy(model.config.to_dict()))
        config._attn_implementation = model.config._attn_implementation
        with torch.device("meta"):
            return type(model)(config)
    except Exception as error:  # the checks of transformers raise exceptions of any type
        raise _inexpressible(model, " ".join(str(error).split())[:160], where) from error


def _settle(stack: Any, shell: Any, numbers: _Numbers, *, where: str) -> None:
    """Give every layer the number of its new place, and check that it has no other settings than the shell's layer."""
    old, new = layer_lists(stack), layer_lists(shell)
    outside = {name: module for name, module in shell.named_modules() if not name.startswith(tuple(new))}
    for name, module in stack.named_modules():  # XLM counts its layers in an attribute
        counts = vars(outside[name]).items() if name in outside else ()
        module.__dict__.update((key, count) for key, count in counts if _LAYER_COUNT.fullmatch(key))
    for path, layers in old.items():
        for place, layer in enumerate(layers):
            planned = dict(new[path][place].named_modules()) if path in new and place < len(new[path]) else {}
            modules = dict(layer.named_modules())
            if planned.keys() != modules.keys():
                raise _inexpressible(stack, f"another kind of layer at {numbers[place]}", where)
            for name, module in modules.items():
                finding = f"{name}.{{}} of layer {numbers[place]}"
                _settle_module(module, planned[name], numbers, finding, where)


def _settle_module(module: Any, planned: Any, numbers: _Numbers, finding: str, where: str) -> None:
    if type(module) is not type(planned):
        raise _inexpressible(module, f"another class for {finding.format('*')}", where)
    for name, value in _settings(planned).items():
        actual = _lists(vars(module).get(name))
        if not _is_plain(actual):  # a state of the last pass
            continue
        if name in _FOLLOWING or _moved(name, actual, numbers) == value:
            module.__dict__[name] = value
        elif actual != value:
            raise _inexpressible(module, f"{value} for {finding.format(name)}, which is {actual}", where)


def _moved(name: str, value: Any, numbers: _Numbers) -> Any:
    """Return what becomes of a number of a layer, by which its keys are found in the cache, or of a list per layer."""
    if isinstance(value, int) and not isinstance(value, bool) and _PLACE.search(name) and value in numbers:
        return numbers.index(value)
    if isinstance(value, list) and len(value) > numbers[-1] and "layers" in name:
        return [value[number] for number in numbers]
    return value


def _settings(module: Any) -> Mapping[str, Any]:
    """Return what decides how a module computes, beside its weights: its plain attributes."""
    hidden = {"training", "gradient_checkpointing"}
    return {
        name: _lists(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in hidden and _is_plain(value)
    }


def _lists(value: Any) -> Any:
    """Return a value in which tuples are lists, as in the file of a configuration."""
    return list(map(_lists, value)) if isinstance(value, list | tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    return isinstance(value, bool | int | float | str | None)


def _compare_shapes(model: Any, shell: Any, *, where: str) -> None:
    actual, planned = ({name: value.shape for name, value in each.state_dict().items()} for each in (model, shell))
    if differing := sorted(name for name in actual | planned if actual.get(name) != planned.get(name)):
        raise _inexpressible(model, f"another shape of {differing[0]}", where)


def _inexpressible(model: Any, got: str, where: str) -> ParameterError:
    expected = f"layers that the configuration can describe at their new places ({type(model).__name__})"
    return ParameterError(where, expected=expected, got=got, remedy="keep layers of the kinds that these places have")
