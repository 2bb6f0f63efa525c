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
from pipeline.losses.batch import Batch, TeacherRows
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
    rollouts: Sequence[Rollout], written: Sequence[CompletionArrays], tempered: TemperedRows, advantage_B: Floats
) -> Batch:
    """Sequences end to end, their rows padded to the widest; `tempered` holds them all, in the same order."""
    lengths_B = [len(one.token_ids_T) for one in written]
    on_policy_B = np.array([one.source == "student" for one in rollouts])
    on_policy_N = np.repeat(on_policy_B, lengths_B)
    student_N = np.repeat([one.source in _STUDENTS for one in rollouts], lengths_B)
    sampling_logp_N = np.concatenate([one.logp_T for one in written])
    ids_NK, logp_NK = _entries(tempered)
    tail_sample_ids_NJ, tail_sample_logp_NJ, tail_sample_logweight_NJ = _tail_samples(tempered)
    rows = TeacherRows(
        token_ids_N=np.concatenate([one.token_ids_T for one in written]),
        on_policy_N=on_policy_N,
        behaviour_logp_N=np.where(student_N, sampling_logp_N, np.float32(np.nan)),
        sampling_logp_N=sampling_logp_N,
        advantage_N=np.repeat(advantage_B, lengths_B),
        token_logp_N=tempered.token_logp_N,
        stored_only_because_sampled_N=tempered.stored_only_because_sampled_N,
        tail_mean_N=np.where(on_policy_N, tempered.tail_mean_N, np.float32(np.nan)),  # that of another student misleads
        ids_NK=ids_NK,
        logp_NK=logp_NK,
        tail_N=tempered.tail_N,
        tail_sample_ids_NJ=tail_sample_ids_NJ,
        tail_sample_logp_NJ=tail_sample_logp_NJ,
        tail_sample_logweight_NJ=tail_sample_logweight_NJ,
        has_tail_samples_N=tempered.tail_samples_n > 0,
    )
    return Batch(
        prompt_ids=[one.prompt_ids for one in rollouts],
        completion_ids=[one.completion_ids for one in rollouts],
        on_policy_B=on_policy_B,
        finished_B=np.array([one.finished for one in rollouts]),
        reward_B=np.array([np.nan if one.reward is None else one.reward for one in rollouts], np.float32),
        rows=rows,
    )


def _entries(rows: TemperedRows) -> tuple[Ints, Floats]:
    """Return top and student-support tokens of each position [N, K]; padding repeats the first id of the row."""
    top_width = _widest(rows.top_n)
    shape = len(rows.top_n), top_width + _widest(rows.student_n)
    in_top, in_student = _cells(rows.top_n, shape[1], 0), _cells(rows.student_n, shape[1], top_width)
    ids_NK, logp_NK = np.empty(shape, np.int32), np.full(shape, _NO_LOGP, np.int32)
    ids_NK[:] = rows.top[0, starts(rows.top_n), None]
    for padded, top, student in zip((ids_NK.reshape(-1), logp_NK.reshape(-1)), rows.top, rows.student, strict=True):
        padded[in_top], padded[in_student] = top, student
    return ids_NK, logp_NK.view(np.float32)


def _tail_samples(rows: TemperedRows) -> tuple[Ints, Floats, Floats]:
    """Return the tail samples [N, J]: ids, log-probs and log-weights; padding has id 0 and counts nothing."""
    shape = len(rows.tail_samples_n), _widest(rows.tail_samples_n)
    cells = _cells(rows.tail_samples_n, shape[1], 0)
    ids_NJ, logp_NJ, logweight_NJ = (np.full(shape, fill, np.int32) for fill in (0, 0, _NO_LOGP))
    for padded, samples in zip((ids_NJ, logp_NJ, logweight_NJ), rows.tail_samples, strict=True):
        padded.reshape(-1)[cells] = samples
    return ids_NJ, logp_NJ.view(np.float32), logweight_NJ.view(np.float32)


def _widest(counts_N: Ints) -> int:
    return int(counts_N.max(initial=0))


def _cells(counts_N: Ints, width: int, column: int) -> NDArray[np.int64]:
    """Where entries lie in a flattened rectangle [N, width] whose rows begin with them at `column`."""
    shift_N = np.arange(len(counts_N)) * width + column - starts(counts_N)
    cells: NDArray[np.int64] = spread(shift_N, counts_N)
    cells += np.arange(len(cells))
    return cells
