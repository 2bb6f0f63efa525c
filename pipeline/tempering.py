"""The teacher's rows at the temperature of the loss, ragged: what every batch of a window would compute anew.

Guarantee: a row is a distribution over head, union and "any other token"; it depends on its own position alone, so that
neighbours change no bit of it.
Cost: once for each window that is held, about .15 microseconds a position at 24 entries and draws (docs/decisions.md).
Not taken: batch by batch (small arrays: the calls cost more than the work).

Array suffixes: see `pipeline.records`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.ragged import owners, spread, starts
from pipeline.records import Floats, Ints, Scores

_TAIL_FLOOR = math.exp(-20)  # the codec's smallest probability: a tail it rounds to zero is not exactly none
_SLOTS = 64  # of a position, a power of two, in which the union's tokens leave a mark


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows:
    """`Scores` at one temperature, normalised: head, union and tail of each position add up to one."""

    head_ids: Ints  # [E]
    head_logp: Floats  # [E]
    head_n: Ints  # [N]
    union_ids: Ints  # [U]
    union_logp: Floats  # [U]
    union_n: Ints  # [N]
    draw_ids: Ints  # [R]
    draw_logp: Floats  # [R]
    draw_logweight: Floats  # [R] log of what each draw counts in the expectation over the tail; -inf: none
    draw_n: Ints  # [N]
    tail_N: Floats  # mass outside head and union
    token_logp_N: Floats  # of the realised token, not normalised
    realised_only_N: NDArray[np.bool_]
    tail_g_N: Floats  # at temperature 1


def temper(scores: Scores, *, temperature: float, column: int) -> TeacherRows:
    """`column` is the temperature's column in the scores."""
    assert (scores.head_n > 0).all(), "a position without a head"
    at = _at(scores, temperature, column)
    tail_N = np.maximum(scores.union_tail_NH[:, column], _TAIL_FLOOR)
    # one-byte values do not add up to one: make the bucketed row a distribution again
    total_N = _sums(np.exp(at.head_logp), at.head_n) + _sums(np.exp(at.union_logp), at.union_n) + tail_N
    norm_N = np.log(total_N)
    draw_logp, draw_logweight = _draws(scores, at, norm_N)
    return TeacherRows(
        head_ids=at.head_ids,
        head_logp=_less(at.head_logp, norm_N, at.head_n),
        head_n=at.head_n,
        union_ids=at.union_ids,
        union_logp=_less(at.union_logp, norm_N, at.union_n),
        union_n=at.union_n,
        draw_ids=at.draw_ids,
        draw_logp=draw_logp,
        draw_logweight=draw_logweight,
        draw_n=at.draw_n,
        tail_N=tail_N / total_N,
        token_logp_N=at.token_logp_N,
        realised_only_N=at.realised_only_N,
        tail_g_N=at.tail_g_N,
    )


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
    owner_U, owner_R = owners(scores.union_n), owners(scores.draw_n)
    marked = np.zeros(len(scores.union_n) * _SLOTS, np.bool_)
    marked[owner_U * _SLOTS + (scores.union_ids & _SLOTS - 1)] = True
    draws = np.flatnonzero(marked[owner_R * _SLOTS + (scores.draw_ids & _SLOTS - 1)])
    pairs_R = scores.union_n[owner_R[draws]]
    draw_of_pair = spread(draws, pairs_R)
    shift_R = starts(scores.union_n)[owner_R[draws]] - starts(pairs_R)
    union_of_pair = np.arange(len(draw_of_pair)) + spread(shift_R, pairs_R)
    held: NDArray[np.int64] = draw_of_pair[scores.union_ids[union_of_pair] == scores.draw_ids[draw_of_pair]]
    return held


def _less(values: Floats, of_N: Floats, counts_N: Ints) -> Floats:
    """Values less that of their row."""
    less: Floats = spread(of_N, counts_N)
    np.subtract(values, less, out=less)
    return less


def _sums(values: Floats, counts_N: Ints) -> Floats:
    """Sum of each row."""
    sums_N = np.zeros(len(counts_N), dtype=np.float32)
    some_N = counts_N > 0  # reduceat would give an empty row its neighbour's value
    sums_N[some_N] = np.add.reduceat(values, starts(counts_N)[some_N])
    return sums_N
