"""The teacher's rows at the temperature of the loss, ragged: what every batch of a window would compute anew.

Guarantee: a row is a distribution over head, union and "any other token"; it depends on its own position alone, so that
neighbours change no bit of it.
Cost: once for each window that is held, about .25 microseconds a position on one busy core, at 24 entries and draws.
Laying sequences end to end takes .05 microseconds at 120 positions a sequence: one slice an axis and sequence, then
copying.
Not taken: batch by batch (small arrays: the calls cost more than the work), gathering entries by computed indices in
place of slices (an index of 8 bytes for every entry of 8).

Array suffixes: see `pipeline.core.types`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Floats, Ints, Scores
from pipeline.store.ragged import reduced, spread, starts
from pipeline.store.stretch import Place

_TAIL_FLOOR = math.exp(-20)  # the codec's smallest probability: a tail it rounds to zero is not exactly none
_SLOTS = 64  # of a position, a power of two, in which the union's tokens leave a mark


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperedRows:
    """`Scores` at one temperature, normalised: head, union and tail of each position add up to one.

    What runs along one axis lies together, one row a field, so that sequences are cut out and laid end to end at once.
    Cells have four bytes: int32, or the bits of a float32.
    """

    head: Ints  # [2, E] token ids, log-probs
    union: Ints  # [2, U] token ids, log-probs
    draw: Ints  # [3, R] token ids, log-probs, log of what each counts in the expectation over the tail (-inf: none)
    position: Ints  # [7, N] the rest, below

    head_n = property(lambda self: self.position[0])
    union_n = property(lambda self: self.position[1])
    draw_n = property(lambda self: self.position[2])
    realised_only_N = property(lambda self: self.position[3] != 0)
    tail_N = property(lambda self: self.position[4].view(np.float32))  # mass outside head and union
    token_logp_N = property(lambda self: self.position[5].view(np.float32))  # of the realised token, not normalised
    tail_g_N = property(lambda self: self.position[6].view(np.float32))  # at temperature 1


def at_temperature(scores: Scores, *, temperature: float, column: int) -> TemperedRows:
    """`column` is the temperature's column in the scores."""
    assert (scores.head_n > 0).all(), "a position without a head"
    at = _at(scores, temperature, column)
    tail_N = np.maximum(scores.union_tail_NH[:, column], _TAIL_FLOOR)
    # one-byte values do not add up to one: make the bucketed row a distribution again
    head_N = reduced(np.add, np.exp(at.head_logp), at.head_n)
    union_N = reduced(np.add, np.exp(at.union_logp), at.union_n)
    total_N = head_N + union_N + tail_N
    norm_N = np.log(total_N)
    counts = at.head_n, at.union_n, at.draw_n
    return TemperedRows(
        head=_stack(at.head_ids, _less(at.head_logp, norm_N, at.head_n)),
        union=_stack(at.union_ids, _less(at.union_logp, norm_N, at.union_n)),
        draw=_stack(at.draw_ids, *_draws(scores, at, norm_N)),
        position=_stack(*counts, at.realised_only_N, tail_N / total_N, at.token_logp_N, at.tail_g_N),
    )


def _stack(*rows: NDArray[Any]) -> Ints:
    """One row of four-byte cells each."""
    cells = np.empty((len(rows), len(rows[0])), np.int32)
    for cell, row in zip(cells, rows, strict=True):
        cell[:] = row.view(np.int32) if row.dtype == np.float32 else row
    return cells


def concatenate_rows(places: Sequence[Place[TemperedRows]]) -> TemperedRows:
    """The rows of at least one sequence of any stretches, end to end in the given order."""
    found = [(stretch.scores, stretch.bounds, row - stretch.first) for stretch, row in places]

    def joined(axis: str) -> Ints:
        spans = [(getattr(rows, axis), ends[axis][at], ends[axis][at + 1]) for rows, ends, at in found]
        return np.concatenate([cells[:, start:stop] for cells, start, stop in spans], axis=1)

    return TemperedRows(**{axis: joined(axis) for axis in TemperedRows.__slots__})


def _at(scores: Scores, temperature: float, column: int) -> Scores:
    """The same scores with every log-prob at another temperature."""
    if temperature == 1.0:
        return scores
    lse_N = scores.lse_NH[:, column]
    return replace(
        scores,
        token_logp_N=scores.token_logp_N / temperature - lse_N,
        head_logp=_less(scores.head_logp / temperature, lse_N, scores.head_n),
        union_logp=_less(scores.union_logp / temperature, lse_N, scores.union_n),
        draw_logp=_less(scores.draw_logp / temperature, lse_N, scores.draw_n),
    )


def _draws(scores: Scores, at: Scores, norm_N: Floats) -> tuple[Floats, Floats]:
    """Log-probs and log-weights of the draws.

    A draw counts tail / m, reweighted from temperature 1, and nothing if the union holds its token already.
    """
    share_N = np.log(np.maximum(scores.tail_NH[:, 0], _TAIL_FLOOR) / np.maximum(scores.draw_n, 1, dtype=np.float32))
    logp_R = _less(at.draw_logp, norm_N, scores.draw_n)
    weight_R = logp_R - scores.draw_logp + spread(share_N, scores.draw_n)
    held_R = _in_union(scores)
    logp_R[held_R], weight_R[held_R] = 0, -np.inf
    return logp_R, weight_R


def _in_union(scores: Scores) -> NDArray[np.int64]:
    """The draws of a token that the union holds. Only a draw that finds a mark is compared with all of its union."""
    place_N = np.arange(0, _SLOTS * len(scores.union_n), _SLOTS)
    marked, place_R = np.zeros(len(place_N) * _SLOTS, np.bool_), spread(place_N, scores.draw_n)
    marked[spread(place_N, scores.union_n) + (scores.union_ids & _SLOTS - 1)] = True
    draws = np.flatnonzero(marked[place_R + (scores.draw_ids & _SLOTS - 1)])
    owner_R = place_R[draws] // _SLOTS
    pairs_R = scores.union_n[owner_R]
    draw_of_pair = spread(draws, pairs_R)
    shift_R = starts(scores.union_n)[owner_R] - starts(pairs_R)
    union_of_pair = np.arange(len(draw_of_pair)) + spread(shift_R, pairs_R)
    held: NDArray[np.int64] = draw_of_pair[scores.union_ids[union_of_pair] == scores.draw_ids[draw_of_pair]]
    return held


def _less(values: Floats, of_N: Floats, counts_N: Ints) -> Floats:
    """Values less that of their row."""
    less: Floats = spread(of_N, counts_N)
    np.subtract(values, less, out=less)
    return less
