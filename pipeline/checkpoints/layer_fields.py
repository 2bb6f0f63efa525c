"""Cut the fields of a configuration that say something of each layer, when layers are cut.

* Lists, strings and mappings by layer number are cut. Numbers that decide by the place of a layer, such as
  `first_k_dense_replace`, are counted again.
* A field that this module does not know is no danger: `pruning` builds the cut model from its configuration and
  compares every layer.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.models.architectures import is_flat_pair, layer_config

_COUNTS = {
    "encoder": ("num_hidden_layers", "num_layers", "encoder_layers", "num_encoder_layers"),
    "decoder": ("num_decoder_layers", "decoder_layers"),
}
_STACK_COUNT = ("num_hidden_layers", "num_blocks")
# Lists of layer numbers have such names; `no_rope_layers` has flags.
_LAYER_NUMBERS = re.compile(r"(?<!no_rope)(_layers|_ids|_idxs?|_indices)$")
# Lists that may be as long as the layers by chance.
_NO_LAYERS = re.compile(r"token_ids?$|_multipliers$|^(axial_|mtp_)|^(time_step_limit|langs|languages|architectures)$")
# The number of layers at the start (`num_kv_shared_layers`: at the end) that differ from the rest.
_FIRST = {"first_k_dense_replace", "num_dense_layers", "max_window_layers", "num_hash_layers", "moe_layer_start_index"}
_LAST = "num_kv_shared_layers"


def cut_fields(config: Any, stack: str, numbers: Sequence[int], total: int) -> None:
    """Let a configuration describe the layers `numbers` of a stack that had `total` layers; it is changed in place."""
    described = layer_config(config, stack)
    flat = is_flat_pair(config)
    record = described.to_dict()
    changes: dict[str, Any] = {}
    for name, value in record.items():
        if not (flat and _of_other_stack(name, stack)) and not _NO_LAYERS.search(name):
            changes |= _cut(name, value, numbers, total)
    changes |= _moe_steps(record, numbers) | _alternations(record, numbers)
    overrides = changes.pop("per_layer_config", None)
    # A list goes first: the number of layers of Nemotron-H is the length of a list.
    for name, value in changes.items():
        setattr(described, name, value)
    for name in _count_names(config, stack):
        # ProphetNet has the name, and raises an error.
        with suppress(NotImplementedError):
            if getattr(described, name, None) == total:
                setattr(described, name, len(numbers))
    if overrides is not None:
        described.per_layer_config = overrides


def resized_fields(config: Any, changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields of a configuration for a model with the numbers of layers in `changes`.

    With fewer layers, what is said of each layer is said of the first ones. With more, such fields are left out, so
    that the architecture derives them.
    """
    resized, left_out = copy.deepcopy(config), set()
    for stack in _COUNTS if is_flat_pair(config) else ("decoder",):
        names = {config.attribute_map.get(name, name): name for name in _count_names(config, stack)}
        counts = [changes.get(field, changes.get(name)) for field, name in names.items() if hasattr(config, name)]
        new = next((count for count in counts if isinstance(count, int)), None)
        old = next((getattr(config, name) for name in names.values() if hasattr(config, name)), None)
        if new is None or old is None or new == old or new < 1:
            continue
        if new < old:
            cut_fields(resized, stack, range(new), old)
        else:
            lists = {name: value for name, value in config.to_dict().items() if not isinstance(value, int)}
            left_out |= {name for name, value in lists.items() if _cut(name, value, range(old), old)}
    return {name: value for name, value in resized.to_dict().items() if name not in left_out}


def _count_names(config: Any, stack: str) -> tuple[str, ...]:
    return _COUNTS[stack] if is_flat_pair(config) else _STACK_COUNT


def _of_other_stack(name: str, stack: str) -> bool:
    of_decoder = "decoder" in name
    return of_decoder != (stack == "decoder")


def _cut(name: str, value: Any, numbers: Sequence[int], total: int) -> dict[str, Any]:
    """Return the new value of one field by its name, or nothing where it stays."""
    if name == "per_layer_config" and isinstance(value, dict):
        by_number = {int(number): overrides for number, overrides in value.items()}
        return {name: {place: by_number[old] for place, old in enumerate(numbers) if old in by_number}}
    if name == "attention_types" and isinstance(value, list):  # GPT-Neo: [[kinds, repetitions], ...]
        kinds = [kind for part, repetitions in value for kind in part * repetitions]
        return {name: [[[kinds[number] for number in numbers], 1]]}
    if isinstance(value, list | tuple):
        if _holds_layer_numbers(name, value, total):
            return {name: [place for place, number in enumerate(numbers) if number in value]}
        return {name: [value[number] for number in numbers]} if len(value) == total else {}
    if isinstance(value, str) and "pattern" in name and len(value) == total:
        return {name: "".join(value[number] for number in numbers)}
    if isinstance(value, int) and not isinstance(value, bool):
        return _count_again(name, value, numbers, total)
    return {}


def _holds_layer_numbers(name: str, value: Sequence[Any], total: int) -> bool:
    whole = all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < total for item in value)
    return bool(whole and _LAYER_NUMBERS.search(name) and sorted(set(value)) == list(value))


def _count_again(name: str, value: int, numbers: Sequence[int], total: int) -> dict[str, Any]:
    if name in _FIRST:
        return {name: sum(number < value for number in numbers)}
    if name == _LAST:
        return {name: sum(number >= total - value for number in numbers)}
    if name == "moe_layer_end_index":
        return {name: sum(number <= value for number in numbers) - 1}
    return {}


def _moe_steps(record: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Name the layers without experts one by one where a step names them (Qwen's mixtures of experts)."""
    step, only = record.get("decoder_sparse_step"), record.get("mlp_only_layers")
    if not isinstance(step, int) or step < 2 or only is None:
        return {}
    dense = [place for place, number in enumerate(numbers) if number in only or (number + 1) % step]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def _alternations(record: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Find a period and an offset that pick the same layers as before the cut, where there are any (Jamba)."""
    changes: dict[str, Any] = {}
    for name in [name for name in record if name.endswith("_layer_period")]:
        other = name.replace("period", "offset")
        if "layers_block_type" not in record and other in record:
            picked = [number % record[name] == record[other] for number in numbers]
            changes |= dict(zip((name, other), _period(picked), strict=False))
    return changes


def _period(picked: Sequence[bool]) -> tuple[int, ...]:
    """Return the first pair of a period and an offset that pick these places; empty where there is none."""
    pairs = [(period, offset) for period in range(1, len(picked) + 2) for offset in range(period)]
    fitting = (pair for pair in pairs if [place % pair[0] == pair[1] for place in range(len(picked))] == list(picked))
    return next(fitting, ())
