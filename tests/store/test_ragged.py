"""pipeline.store.ragged: sequences laid end to end come apart as they were."""

import numpy as np

from pipeline.core.types import Scores
from pipeline.store.ragged import join_scores, pick_positions, reduced, split_scores
from tests.scores import arrays_of, top_only


def _same(left: Scores, right: Scores) -> bool:
    other = arrays_of(right)
    return all(
        np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f")
        for name, values in arrays_of(left).items()
    )


PARTS = [
    top_only([3, 4, 5], [-1.0, -2.0, -3.0], [2, 0, 1], tail=0.1, token_logp=-1.0),
    top_only([], -1.0, [], tail=0.2, token_logp=-2.0),
    top_only([6, 7], -4.0, [1, 1], tail=0.3, token_logp=-3.0),
]


def test_splitting_is_the_inverse_of_joining() -> None:
    apart = split_scores(join_scores(PARTS, 1), np.array([3, 0, 2]))
    assert all(_same(item, part) for item, part in zip(apart, PARTS, strict=True))
    assert split_scores(join_scores([], 1), np.array([], np.int64)) == []


def test_joining_nothing_keeps_the_temperatures() -> None:
    assert join_scores([], 3).stats.tail_NH.shape == (0, 3)


def test_picked_positions_keep_their_entries() -> None:
    got = pick_positions(join_scores(PARTS, 1), np.array([False, True, True, True, False]))
    assert (got.top.counts.tolist(), got.top.ids.tolist(), got.top.logp.tolist()) == ([0, 1, 1], [5, 6], [-3.0, -4.0])
    assert np.array_equal(got.stats.tail_NH[:, 0], np.float32([0.1, 0.1, 0.3]))


def test_entries_are_taken_together_by_position() -> None:
    values, n_N = np.array([3, 1, 2, 200, 7], np.uint8), np.array([0, 3, 0, 2, 0], np.int32)
    largest, added = reduced(np.maximum, values, n_N), reduced(np.add, values.astype(np.float32), n_N)
    assert (largest.tolist(), largest.dtype) == ([0, 3, 0, 200, 0], np.uint8)
    assert (added.tolist(), added.dtype) == ([0, 6, 0, 207, 0], np.float32)
    assert reduced(np.add, values[:0], n_N[:1]).tolist() == [0]
