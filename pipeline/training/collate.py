"""The teacher's rows of some sequences as padded arrays: what the loss takes.

Guarantee: row t belongs to completion token t; every row is a distribution again, at the temperature asked for.
Cost: about .4 microseconds a position on one busy core, at 24 entries and draws padded to 116 and 22 columns; most of
it goes into the padded arrays (8 bytes for each of K, 12 for each of J).
Not taken: padding first (three times slower), leaving rows ragged (the loss gathers rectangles), ids of 8 bytes (torch
gathers by them alone; `pipeline.losses.fused_linear` makes them so for the few positions at hand).

Array suffixes: see `pipeline.core.types`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Floats, Ints, Rollout, Scores
from pipeline.losses.batch import Batch
from pipeline.store.ragged import spread, starts
from pipeline.training.temperature import TemperedRows, at_temperature

_STUDENTS = ("student", "replay")
_NO_LOGP = np.float32(-np.inf).view(np.int32)  # rows come as four-byte cells, whatever is in them


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionArrays:
    """A completion's numbers as arrays, which lists become at ten times the cost of all that a batch does with them."""

    token_ids_T: NDArray[np.int64]
    logp_T: Floats  # under which the tokens were drawn; NaN where that is unknown, as in the data set's text

    @classmethod
    def of(cls, rollout: Rollout) -> "CompletionArrays":
        """Those of a rollout."""
        logp = rollout.behaviour_logp or [math.nan] * len(rollout.completion_ids)
        return cls(token_ids_T=np.asarray(rollout.completion_ids, np.int64), logp_T=np.asarray(logp, np.float32))


def collate_scores(rollouts: Sequence[Rollout], scores: Scores, *, temperature: float, column: int) -> Batch:
    """One batch from scores, which hold all rollouts in the same order; `column` is the temperature's in the scores."""
    rows = at_temperature(scores, temperature=temperature, column=column)
    return collate(rollouts, [CompletionArrays.of(one) for one in rollouts], rows, np.zeros(len(rollouts), np.float32))


def collate(
    rollouts: Sequence[Rollout], written: Sequence[CompletionArrays], rows: TemperedRows, advantage_B: Floats
) -> Batch:
    """Sequences end to end, their rows padded to the widest; `rows` holds them all, in the same order."""
    lengths_B = [len(one.token_ids_T) for one in written]
    own_B = np.array([one.source == "student" for one in rollouts])
    fresh_N = np.repeat(own_B, lengths_B)
    student_N = np.repeat([one.source in _STUDENTS for one in rollouts], lengths_B)
    sampling_logp_N = np.concatenate([one.logp_T for one in written])
    ids_NK, logp_NK = _entries(rows)
    draw_ids_NJ, draw_logp_NJ, draw_logweight_NJ = _draws(rows)
    return Batch(
        prompt_ids=[one.prompt_ids for one in rollouts],
        completion_ids=[one.completion_ids for one in rollouts],
        from_student_B=own_B,
        finished_B=np.array([one.finished for one in rollouts]),
        token_ids_N=np.concatenate([one.token_ids_T for one in written]),
        fresh_N=fresh_N,
        behaviour_logp_N=np.where(student_N, sampling_logp_N, np.float32(np.nan)),
        sampling_logp_N=sampling_logp_N,
        token_logp_N=rows.token_logp_N,
        realised_only_N=rows.realised_only_N,
        tail_g_N=np.where(fresh_N, rows.tail_g_N, np.float32(np.nan)),  # a wrong student's is worse than none
        reward_B=np.array([np.nan if one.reward is None else one.reward for one in rollouts], np.float32),
        advantage_N=np.repeat(advantage_B, lengths_B),
        ids_NK=ids_NK,
        logp_NK=logp_NK,
        tail_N=rows.tail_N,
        draw_ids_NJ=draw_ids_NJ,
        draw_logp_NJ=draw_logp_NJ,
        draw_logweight_NJ=draw_logweight_NJ,
        has_draws_N=rows.draw_n > 0,
    )


def _entries(rows: TemperedRows) -> tuple[Ints, Floats]:
    """Head and union of each position side by side [N, K]; padding repeats the row's first id."""
    head_width = _widest(rows.head_n)
    shape = len(rows.head_n), head_width + _widest(rows.union_n)
    in_head, in_union = _cells(rows.head_n, shape[1], 0), _cells(rows.union_n, shape[1], head_width)
    ids_NK, logp_NK = np.empty(shape, np.int32), np.full(shape, _NO_LOGP, np.int32)
    ids_NK[:] = rows.head[0, starts(rows.head_n), None]
    for padded, head, union in zip((ids_NK.reshape(-1), logp_NK.reshape(-1)), rows.head, rows.union, strict=True):
        padded[in_head], padded[in_union] = head, union
    return ids_NK, logp_NK.view(np.float32)


def _draws(rows: TemperedRows) -> tuple[Ints, Floats, Floats]:
    """Draws [N, J]: ids, log-probs and log-weights; padding has id 0 and counts nothing."""
    shape = len(rows.draw_n), _widest(rows.draw_n)
    cells = _cells(rows.draw_n, shape[1], 0)
    ids_NJ, logp_NJ, logweight_NJ = (np.full(shape, fill, np.int32) for fill in (0, 0, _NO_LOGP))
    for padded, draw in zip((ids_NJ, logp_NJ, logweight_NJ), rows.draw, strict=True):
        padded.reshape(-1)[cells] = draw
    return ids_NJ, logp_NJ.view(np.float32), logweight_NJ.view(np.float32)


def _widest(counts_N: Ints) -> int:
    return int(counts_N.max(initial=0))


def _cells(counts_N: Ints, width: int, column: int) -> NDArray[np.int64]:
    """Where entries lie in a flattened rectangle [N, width] whose rows begin with them at `column`."""
    shift_N = np.arange(len(counts_N)) * width + column - starts(counts_N)
    cells: NDArray[np.int64] = spread(shift_N, counts_N)
    cells += np.arange(len(cells))
    return cells
