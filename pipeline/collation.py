"""The teacher's rows of some sequences as padded arrays: what the loss takes.

Guarantee: row t belongs to completion token t; every row is a distribution again, at the temperature asked for.
Cost: about 1 microsecond a position on one busy core, at 24 entries and draws padded to 90 and 22 columns; half of it
goes into the padded arrays (12 bytes for each of K, 16 for each of J). The arithmetic is done on ragged arrays.
Not taken: padding first (three times slower), leaving rows ragged (the loss gathers rectangles).

Array suffixes: see `pipeline.records`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Batch, Floats, Rollout, Scores

_STUDENTS = ("student", "replay", "peer")
_TAIL_FLOOR = math.exp(-20)  # the codec's smallest probability: a tail it rounds to zero is not exactly none


def collate(
    rollouts: Sequence[Rollout],
    scores: Scores,
    *,
    temperature: float,
    column: int,
    advantage_B: Floats | None = None,
) -> Batch:
    """Sequences end to end, their rows padded to the widest; `scores` holds them all, in the same order.

    `column` is the temperature's column in the scores; without `advantage_B` no completion has an advantage.
    """
    assert (scores.head_n > 0).all(), "a position without a head"
    tempered = _tempered(scores, temperature, column)
    tail_N = np.maximum(scores.union_tail_NH[:, column], _TAIL_FLOOR)
    # one-byte values do not add up to one: make the bucketed row a distribution again
    total_N = (
        _sums(np.exp(tempered.head_logp), scores.head_n) + _sums(np.exp(tempered.union_logp), scores.union_n) + tail_N
    )
    ids_NK, logp_NK = _entries(tempered, np.log(total_N))
    if advantage_B is None:
        advantage_B = np.zeros(len(rollouts), np.float32)
    own_B = np.array([one.source == "student" for one in rollouts])
    fresh_N = np.repeat(own_B, [len(one.completion_ids) for one in rollouts])
    draw_ids_NJ, draw_logp_NJ, draw_logweight_NJ = _draws(scores, tempered, np.log(total_N))
    return Batch(
        prompt_ids=[one.prompt_ids for one in rollouts],
        completion_ids=[one.completion_ids for one in rollouts],
        from_student_B=own_B,
        ended_B=np.array([one.ended for one in rollouts]),
        token_ids_N=np.concatenate([np.asarray(one.completion_ids, np.int64) for one in rollouts]),
        fresh_N=fresh_N,
        behaviour_logp_N=np.concatenate([_recorded(one, one.source in _STUDENTS) for one in rollouts]),
        author_logp_N=np.concatenate([_recorded(one, one.source != "dataset") for one in rollouts]),
        token_logp_N=tempered.token_logp_N,
        realised_only_N=scores.realised_only_N,
        tail_g_N=np.where(fresh_N, scores.tail_g_N, np.float32(np.nan)),  # a wrong student's is worse than none
        reward_B=np.array([np.nan if one.reward is None else one.reward for one in rollouts], np.float32),
        advantage_N=np.repeat(advantage_B, [len(one.completion_ids) for one in rollouts]),
        ids_NK=ids_NK,
        logp_NK=logp_NK,
        tail_N=tail_N / total_N,
        draw_ids_NJ=draw_ids_NJ,
        draw_logp_NJ=draw_logp_NJ,
        draw_logweight_NJ=draw_logweight_NJ,
        has_draws_N=scores.draw_n > 0,
    )


def _recorded(rollout: Rollout, known: bool) -> Floats:
    """The log-probs under which the tokens were drawn, or NaN."""
    return np.asarray(rollout.behaviour_logp if known else [np.nan] * len(rollout.completion_ids), np.float32)


def _tempered(scores: Scores, temperature: float, column: int) -> Scores:
    """The same scores with every log-prob at another temperature."""
    if temperature == 1.0:
        return scores
    lse_N = scores.lse_NH[:, column]
    return replace(
        scores,
        token_logp_N=scores.token_logp_N / temperature - lse_N,
        head_logp=scores.head_logp / temperature - np.repeat(lse_N, scores.head_n),
        union_logp=scores.union_logp / temperature - np.repeat(lse_N, scores.union_n),
        draw_logp=scores.draw_logp / temperature - np.repeat(lse_N, scores.draw_n),
    )


def _entries(scores: Scores, norm_N: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Head and union of each position side by side [N, K], less `norm_N`; padding repeats the row's first id."""
    head_width = _widest(scores.head_n)
    width = head_width + _widest(scores.union_n)
    in_head, in_union = _cells(scores.head_n, width, 0), _cells(scores.union_n, width, head_width)
    first_N = scores.head_ids[_starts(scores.head_n)]
    ids = np.repeat(first_N.astype(np.int64), width)
    ids[in_head], ids[in_union] = scores.head_ids, scores.union_ids
    logp = np.full(len(ids), -np.inf, np.float32)
    logp[in_head] = scores.head_logp - np.repeat(norm_N, scores.head_n)
    logp[in_union] = scores.union_logp - np.repeat(norm_N, scores.union_n)
    return ids.reshape(len(norm_N), width), logp.reshape(len(norm_N), width)


def _draws(scores: Scores, tempered: Scores, norm_N: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Draws [N, J]: ids, log-probs and log-weights.

    A draw counts tail / m, reweighted from temperature 1, and nothing if the union holds its token already.
    """
    draw_n, held_R = scores.draw_n, _in_union(scores)
    share_N = np.log(np.maximum(scores.tail_NH[:, 0], _TAIL_FLOOR) / np.maximum(draw_n, 1, dtype=np.float32))
    logp_R = tempered.draw_logp - np.repeat(norm_N, draw_n)
    weight_R = logp_R - scores.draw_logp + np.repeat(share_N, draw_n)
    logp_R[held_R], weight_R[held_R] = 0, -np.inf
    ids_NJ = _padded(scores.draw_ids.astype(np.int64), draw_n, 0)
    return ids_NJ, _padded(logp_R, draw_n, 0), _padded(weight_R, draw_n, -np.inf)


def _in_union(scores: Scores) -> NDArray[np.bool_]:
    """Which draws are of a token that the union holds: all pairs of the two within a position are compared."""
    pairs_R = np.repeat(scores.union_n, scores.draw_n)
    shift_R = np.repeat(_starts(scores.union_n), scores.draw_n) - _starts(pairs_R)
    union_of_pair = np.arange(pairs_R.sum()) + np.repeat(shift_R, pairs_R)
    draw_of_pair = np.repeat(np.arange(len(pairs_R)), pairs_R)
    held_R = np.zeros(len(pairs_R), dtype=np.bool_)
    held_R[draw_of_pair[scores.union_ids[union_of_pair] == scores.draw_ids[draw_of_pair]]] = True
    return held_R


# Ragged rows


def _widest(counts_N: NDArray[Any]) -> int:
    return int(counts_N.max(initial=0))


def _starts(counts_N: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the first entry of each row."""
    starts_N: NDArray[np.int64] = np.cumsum(counts_N, dtype=np.int64) - counts_N
    return starts_N


def _cells(counts_N: NDArray[Any], width: int, column: int) -> NDArray[np.int64]:
    """Where entries lie in a flattened rectangle [N, width] whose rows begin with them at `column`."""
    shift_N = np.arange(len(counts_N)) * width + column - _starts(counts_N)
    cells: NDArray[np.int64] = np.arange(counts_N.sum()) + np.repeat(shift_N, counts_N)
    return cells


def _padded(flat: NDArray[Any], counts_N: NDArray[Any], fill: float) -> NDArray[Any]:
    """A rectangle [N, widest]."""
    width = _widest(counts_N)
    rows = np.full(len(counts_N) * width, fill, dtype=flat.dtype)
    rows[_cells(counts_N, width, 0)] = flat
    return rows.reshape(len(counts_N), width)


def _sums(values: Floats, counts_N: NDArray[Any]) -> Floats:
    """Sum of each row."""
    sums_N = np.zeros(len(counts_N), dtype=np.float32)
    some_N = counts_N > 0  # reduceat would give an empty row its neighbour's value
    sums_N[some_N] = np.add.reduceat(values, _starts(counts_N)[some_N])
    return sums_N
