"""Collation: the sequences of a batch end to end, with the teacher's ragged rows as padded arrays.

* Row t of a sequence belongs to its completion token t. Tokens that others wrote have no row.
* Every row is a probability distribution at the requested temperature.
* Cost: about 0.4 microseconds per position on one busy core, at 24 entries and tail samples padded to 116 and 22
  columns. Most of the time goes into the padded arrays: 8 bytes for each of K entries, 12 for each of J tail samples.

Array suffixes: see `pipeline.core.types`; B sequences, N positions, K stored tokens, J tail samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Floats, Ints, Rollout
from pipeline.losses.batch import Batch, TeacherRows
from pipeline.store.ragged import spread, starts
from pipeline.training.temperature import TemperedRows

_STUDENTS = ("student", "replay")
_NO_LOGP = np.float32(-np.inf).view(np.int32)  # the bits of -inf, because rows are arrays of four-byte cells


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionArrays:
    """A completion as arrays, converted once: converting lists takes ten times as long as the rest of a batch."""

    token_ids_T: NDArray[np.int64]  # of scored tokens
    sampling_logp_T: Floats  # NaN where no policy sampled the tokens, as in references
    scored: NDArray[np.bool_]  # of all tokens of the completion, false where others wrote them

    @classmethod
    def of(cls, rollout: Rollout) -> "CompletionArrays":
        """Return the arrays of a rollout."""
        ids, logp = rollout.scored_ids, rollout.behaviour_logp or [math.nan] * rollout.positions
        scored = rollout.completion_mask or np.ones(len(rollout.completion_ids), np.bool_)
        return cls(
            token_ids_T=np.asarray(ids, np.int64),
            sampling_logp_T=np.asarray(logp, np.float32),
            scored=np.asarray(scored, np.bool_),
        )


def collate(
    rollouts: Sequence[Rollout], completions: Sequence[CompletionArrays], tempered: TemperedRows, advantage_B: Floats
) -> Batch:
    """Return one batch; all arguments have the same sequences in the same order."""
    lengths_B = [len(completion.token_ids_T) for completion in completions]
    on_policy_B = np.array([rollout.source == "student" for rollout in rollouts])
    on_policy_N = np.repeat(on_policy_B, lengths_B)
    student_N = np.repeat([rollout.source in _STUDENTS for rollout in rollouts], lengths_B)
    sampling_logp_N = np.concatenate([completion.sampling_logp_T for completion in completions])
    ids_NK, logp_NK = _pad_entries(tempered)
    tail_sample_ids_NJ, tail_sample_logp_NJ, tail_sample_logweight_NJ = _pad_tail_samples(tempered)
    rows = TeacherRows(
        token_ids_N=np.concatenate([completion.token_ids_T for completion in completions]),
        on_policy_N=on_policy_N,
        behaviour_logp_N=np.where(student_N, sampling_logp_N, np.float32(np.nan)),
        sampling_logp_N=sampling_logp_N,
        advantage_N=np.repeat(advantage_B, lengths_B),
        token_logp_N=tempered.token_logp_N,
        stored_only_because_sampled_N=tempered.stored_only_because_sampled_N,
        # The tail mean of another student is worse than none.
        tail_mean_N=np.where(on_policy_N, tempered.tail_mean_N, np.float32(np.nan)),
        ids_NK=ids_NK,
        logp_NK=logp_NK,
        tail_N=tempered.tail_N,
        tail_sample_ids_NJ=tail_sample_ids_NJ,
        tail_sample_logp_NJ=tail_sample_logp_NJ,
        tail_sample_logweight_NJ=tail_sample_logweight_NJ,
        has_tail_samples_N=tempered.tail_samples_n > 0,
    )
    rewards = [np.nan if rollout.reward is None else rollout.reward for rollout in rollouts]
    return Batch(
        prompt_ids=[rollout.prompt_ids for rollout in rollouts],
        completion_ids=[rollout.completion_ids for rollout in rollouts],
        on_policy_B=on_policy_B,
        finished_B=np.array([rollout.finished for rollout in rollouts]),
        reward_B=np.array(rewards, np.float32),
        rows=rows,
        scored_N=_scored(completions),
    )


def _scored(completions: Sequence[CompletionArrays]) -> NDArray[np.int64] | None:
    """Return which tokens of the completions, laid end to end, have rows; None where all have."""
    scored = np.concatenate([completion.scored for completion in completions])
    return None if scored.all() else np.flatnonzero(scored)


def _pad_entries(rows: TemperedRows) -> tuple[Ints, Floats]:
    """Return top and student-support tokens of each position [N, K]; padding repeats the first id of the row."""
    top_width = _widest(rows.top_n)
    shape = len(rows.top_n), top_width + _widest(rows.student_n)
    in_top, in_student = _cells(rows.top_n, shape[1], 0), _cells(rows.student_n, shape[1], top_width)
    ids_NK, logp_NK = np.empty(shape, np.int32), np.full(shape, _NO_LOGP, np.int32)
    ids_NK[:] = rows.top[0, starts(rows.top_n), None]
    for padded, top, student in zip((ids_NK.reshape(-1), logp_NK.reshape(-1)), rows.top, rows.student, strict=True):
        padded[in_top], padded[in_student] = top, student
    return ids_NK, logp_NK.view(np.float32)


def _pad_tail_samples(rows: TemperedRows) -> tuple[Ints, Floats, Floats]:
    """Return the tail samples [N, J]: ids, log-probs and log-weights; padding has id 0 and log-weight -inf."""
    shape = len(rows.tail_samples_n), _widest(rows.tail_samples_n)
    cells = _cells(rows.tail_samples_n, shape[1], 0)
    ids_NJ, logp_NJ, logweight_NJ = (np.full(shape, fill, np.int32) for fill in (0, 0, _NO_LOGP))
    for padded, samples in zip((ids_NJ, logp_NJ, logweight_NJ), rows.tail_samples, strict=True):
        padded.reshape(-1)[cells] = samples
    return ids_NJ, logp_NJ.view(np.float32), logweight_NJ.view(np.float32)


def _widest(counts_N: Ints) -> int:
    return int(counts_N.max(initial=0))


def _cells(counts_N: Ints, width: int, column: int) -> NDArray[np.int64]:
    """Return the flat indices of entries in a rectangle [N, width] whose rows hold them from `column` on."""
    shift_N = np.arange(len(counts_N)) * width + column - starts(counts_N)
    cells: NDArray[np.int64] = spread(shift_N, counts_N)
    cells += np.arange(len(cells))
    return cells
