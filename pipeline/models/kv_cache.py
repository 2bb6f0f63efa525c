"""Select rows of a cache of keys and values, and preallocate places for the tokens to come.

* Why: the layers of transformers copy all keys and values to append those of one token, which takes up to a tenth of
  the sampling time of a small model. A preallocated layer writes in place, and attention gets a view of the used part.
* Guarantee: the same keys and values, bit for bit, so the same tokens.
* Cost: each row has up to `_PREALLOCATED` places that may stay empty. Gradients do not pass through the layer.
"""

import copy
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

_PREALLOCATED = 16  # tokens: each row has at most so many empty places, and is copied once per so many tokens


def select_rows(cache: Cache, rows: Tensor) -> Cache:
    """Return a new cache with these rows of a cache, which stays as it is."""
    selected = copy.copy(cache)
    parts = [selected]
    if isinstance(cache, EncoderDecoderCache):
        selected.self_attention_cache = copy.copy(cache.self_attention_cache)
        selected.cross_attention_cache = copy.copy(cache.cross_attention_cache)
        selected.is_updated = dict(cache.is_updated)
        parts = [selected.self_attention_cache, selected.cross_attention_cache]
    for part in parts:
        part.layers = [_select_rows_of_layer(layer, rows) for layer in part.layers]
    return selected


def _select_rows_of_layer(layer: Any, rows: Tensor) -> Any:
    selected = copy.copy(layer)
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        selected.batch_select_indices(rows)
        return selected
    # The states of a recurrence are in dictionaries, which a shallow copy would share.
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(selected, name, dict(value))
    selected.reorder_cache(rows)
    return selected


def preallocate(cache: Cache) -> None:
    """Replace the dynamic layers of a cache by preallocated layers.

    Sliding-window layers, states of recurrences, and layers that hold nothing are left unchanged.
    """
    if not isinstance(cache, DynamicCache | EncoderDecoderCache):
        return
    growing: DynamicCache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    growing.layers = [
        PreallocatedLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer
        for layer in growing.layers
    ]


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A cache layer whose keys and values [B, H, S, D] are the used part of longer tensors."""

    def __init__(self, layer: DynamicLayer) -> None:
        """Take over the keys and values of a dynamic layer."""
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = self._long = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the keys and values [B, H, T, D] of T more tokens, and return those of all tokens."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._long[0].shape[-2]:
            padding = (0, 0, 0, end + _PREALLOCATED - start)
            self._long = functional.pad(self.keys, padding), functional.pad(self.values, padding)
        for long, new in zip(self._long, (key_states, value_states), strict=True):
            long[:, :, start:end] = new
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        self._long = self._long[0].index_select(0, indices), self._long[1].index_select(0, indices)
        self._show(self.get_seq_length())

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (long[:, :, :end] for long in self._long)
        return self.keys, self.values
