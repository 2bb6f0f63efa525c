"""A decoder's cache of keys and values: some of its rows, and room for the tokens that it is still to write.

transformers' layers copy all keys and values to add one token's to them, up to a tenth of the time in which a small
model writes. With room, a token's are written beside the others' and the attention is handed a view of what is there.
Guarantee: the same keys and values, bit for bit, so the same tokens.
Cost: up to `_ROOM` tokens of every row that are never written; gradients do not pass.
Not taken: transformers' `StaticCache`, whose attention reads the empty places too, behind a mask.
"""

import copy

from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

_ROOM = 16  # tokens: all keys and values are copied for one in so many, and each row has so many empty places at most


def select_rows(cache: Cache, rows: Tensor) -> Cache:
    """Some rows of a cache, in a cache of their own."""
    taken = copy.copy(cache)
    parts = [taken]
    if isinstance(cache, EncoderDecoderCache):
        taken.self_attention_cache = copy.copy(cache.self_attention_cache)
        taken.cross_attention_cache = copy.copy(cache.cross_attention_cache)
        taken.is_updated = dict(cache.is_updated)
        parts = [taken.self_attention_cache, taken.cross_attention_cache]
    for part in parts:
        part.layers = [copy.copy(layer) for layer in part.layers]
    taken.batch_select_indices(rows)
    return taken


def preallocate(cache: Cache) -> None:
    """Let a cache grow in place; layers of another kind (sliding windows) stay, and those that keep nothing."""
    grows: DynamicCache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    grows.layers = [
        PreallocatedLayer(layer) if type(layer) is DynamicLayer and layer.is_initialized else layer
        for layer in grows.layers
    ]


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer whose keys and values [B, H, S, D] are the front of something longer."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = self._long = layer.keys, layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the keys and values [B, H, T, D] of T more tokens; those of all."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._long[0].shape[-2]:
            more = (0, 0, 0, end + _ROOM - start)
            self._long = functional.pad(self.keys, more), functional.pad(self.values, more)
        for long, new in zip(self._long, (key_states, value_states), strict=True):
            long[:, :, start:end] = new
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._long = self._long[0].index_select(0, indices), self._long[1].index_select(0, indices)
        self._show(self.get_seq_length())

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (long[:, :, :end] for long in self._long)
        return self.keys, self.values
