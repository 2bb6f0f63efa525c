"""Room in the cache of keys and values: the same states as in transformers' layers, and none of them copied a token."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pipeline.models import kv_cache

HEADS, DIM = 2, 3


def states(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `tokens` tokens in each of `rows` rows."""
    return torch.randn(rows, HEADS, tokens, DIM), torch.randn(rows, HEADS, tokens, DIM)


def read(cache: Any, rows: int, tokens: int) -> list[torch.Tensor]:
    """What each of two layers shows of a cache after that many more tokens."""
    return [part for layer in range(2) for part in cache.update(*states(rows, tokens), layer)]


def pair(rows: int, tokens: int) -> tuple[Any, Any]:
    """Two caches of the same keys and values, the second with room."""
    plain, roomy = DynamicCache(), DynamicCache()
    for cache in (plain, roomy):
        torch.manual_seed(0)
        read(cache, rows, tokens)
    kv_cache.preallocate(roomy)
    return plain, roomy


def pointers(cache: Any) -> list[int]:
    return [states.data_ptr() for layer in cache.layers for states in (layer.keys, layer.values)]


Steps = st.lists(st.one_of(st.integers(1, 100), st.lists(st.integers(0, 3), min_size=1, max_size=4)), max_size=8)


@given(Steps)
def test_keys_and_values_are_those_of_transformers_layers(steps: list[int | list[int]]) -> None:
    """After any tokens that are read and any rows that are taken, past the end of the room too."""
    rows = 4
    plain, roomy = pair(rows, 5)
    for step in steps:
        shown: list[list[torch.Tensor]] = []
        for cache in (plain, roomy):
            torch.manual_seed(1)
            if isinstance(step, int):
                shown.append(read(cache, rows, step))
            else:
                cache.batch_select_indices(torch.tensor([row % rows for row in step]))
                shown.append([states for layer in cache.layers for states in (layer.keys, layer.values)])
        rows = rows if isinstance(step, int) else len(step)
        assert all(map(torch.equal, *shown))
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1, 0) == plain.get_mask_sizes(1, 0)


def test_a_token_is_written_beside_the_others() -> None:
    plain, roomy = pair(2, 5)
    for cache in (plain, roomy):
        read(cache, 2, 1)
    places = {name: {tuple(pointers(cache))} for name, cache in (("plain", plain), ("roomy", roomy))}
    for _ in range(kv_cache._PREALLOCATED):
        for name, cache in (("plain", plain), ("roomy", roomy)):
            before = cache.layers[0].keys  # alive, so that nothing else gets its place
            read(cache, 2, 1)
            places[name].add(tuple(pointers(cache)))
            del before
    assert len(places["roomy"]) == 1 < len(places["plain"])
    read(roomy, 2, 1)
    assert tuple(pointers(roomy)) not in places["roomy"]


def test_what_a_cache_was_taken_from_stays_as_it_is() -> None:
    plain, _ = pair(2, 5)
    kept = [states.clone() for layer in plain.layers for states in (layer.keys, layer.values)]
    taken = kv_cache.select_rows(plain, torch.tensor([0, 1, 1]))
    kv_cache.preallocate(taken)
    read(taken, 3, 2)
    taken.batch_select_indices(torch.tensor([2]))
    read(taken, 1, 1)
    assert taken.get_seq_length() == 8 and plain.get_seq_length() == 5
    assert all(map(torch.equal, kept, [states for layer in plain.layers for states in (layer.keys, layer.values)]))


@pytest.mark.parametrize("rows", [[0, 1], [1]])
def test_other_layers_stay(rows: list[int]) -> None:
    """A sliding window forgets, a layer may use another's keys, and those of the cross-attention never grow."""
    sliding = DynamicSlidingWindowLayer(4)
    own, cross = DynamicCache(), DynamicCache()
    own.layers, cross.layers = [DynamicLayer(), sliding, DynamicLayer()], [DynamicLayer(), DynamicLayer()]
    both = EncoderDecoderCache(own, cross)
    for part in (own, cross):
        read(part, 2, 6)
    kv_cache.preallocate(both)
    both.batch_select_indices(torch.tensor(rows))
    assert [type(layer) for layer in own.layers] == [
        kv_cache.PreallocatedLayer,
        DynamicSlidingWindowLayer,
        DynamicLayer,
    ]
    assert [type(layer) for layer in cross.layers] == [DynamicLayer, DynamicLayer]
    assert {len(layer.keys) for part in (own, cross) for layer in part.layers[:2]} == {len(rows)}
