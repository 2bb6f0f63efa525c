"""The teacher's rows at the temperature of the loss, as ragged arrays, computed once per window of sequences.

* A row is a probability distribution over top tokens, student-support tokens and the other-token bucket.
* A row depends on its own position alone, so that its bits do not depend on neighbouring sequences.
* Cost: about 0.25 microseconds per position on one busy core at 24 entries and tail samples, and 0.05 microseconds per
  position for concatenation at 120 positions per sequence.

Array suffixes: see `pipeline.core.types`; N positions, R tail samples of all positions, H temperatures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Floats, Ints, Scores
from pipeline.store.ragged import reduced, spread, starts
from pipeline.store.windows import Place

_TAIL_FLOOR = math.exp(-20)  # the codec's smallest probability, for tails that the codec rounded to zero
_SLOTS = 64  # hash slots per position for student-support tokens; a power of two


@dataclass(frozen=True, slots=True, kw_only=True)
class TemperedRows:
    """`Scores` at one temperature, normalised: top tokens, student-support tokens and tail of a position sum to 1.

    Each array holds the fields of one axis as its rows, so that one slice per axis cuts out a sequence. The cells are
    int32, or the bits of a float32.
    """

    top: Ints  # [2, E] token ids, log-probs
    student: Ints  # [2, U] token ids, log-probs
    tail_samples: Ints  # [3, R] token ids, log-probs, log of the weight in the expectation over the tail
    stats: Ints  # [7, N] the properties below

    top_n = property(lambda self: self.stats[0])
    student_n = property(lambda self: self.stats[1])
    tail_samples_n = property(lambda self: self.stats[2])
    stored_only_because_sampled_N = property(lambda self: self.stats[3] != 0)
    tail_N = property(lambda self: self.stats[4].view(np.float32))  # mass outside top and student-support tokens
    token_logp_N = property(lambda self: self.stats[5].view(np.float32))  # of the sampled token, not normalised
    tail_mean_N = property(lambda self: self.stats[6].view(np.float32))  # at temperature 1


def at_temperature(scores: Scores, *, temperature: float, column: int) -> TemperedRows:
    """Return scores at a temperature; `column` is the column of this temperature in the scores."""
    assert (scores.top.counts > 0).all(), "a position without top tokens"
    at = _at(scores, temperature, column)
    top, student = at.top, at.student
    tail_N = np.maximum(scores.stats.student_tail_NH[:, column], _TAIL_FLOOR)
    # Values that were stored in one byte do not sum to 1, so every row is normalised.
    top_N = reduced(np.add, np.exp(top.logp), top.counts)
    student_N = reduced(np.add, np.exp(student.logp), student.counts)
    total_N = top_N + student_N + tail_N
    norm_N = np.log(total_N)
    counts, sampled = (top.counts, student.counts, at.tail_samples.counts), at.stats.stored_only_because_sampled_N
    return TemperedRows(
        top=_stack(top.ids, _less(top.logp, norm_N, top.counts)),
        student=_stack(student.ids, _less(student.logp, norm_N, student.counts)),
        tail_samples=_stack(at.tail_samples.ids, *_tail_samples(scores, at.tail_samples, norm_N)),
        stats=_stack(*counts, sampled, tail_N / total_N, at.stats.token_logp_N, at.stats.tail_mean_N),
    )


def _stack(*rows: NDArray[Any]) -> Ints:
    """Return arrays of four-byte values as the rows of one array."""
    cells = np.empty((len(rows), len(rows[0])), np.int32)
    for cell, row in zip(cells, rows, strict=True):
        cell[:] = row.view(np.int32) if row.dtype == np.float32 else row
    return cells


def concatenate_rows(places: Sequence[Place[TemperedRows]]) -> TemperedRows:
    """Return the rows of at least one sequence end to end, in the given order."""
    sequences = [(stretch.scores, stretch.bounds, row - stretch.first) for stretch, row in places]

    def joined(axis: str) -> Ints:
        spans = [(getattr(rows, axis), ends[axis][index], ends[axis][index + 1]) for rows, ends, index in sequences]
        return np.concatenate([cells[:, start:stop] for cells, start, stop in spans], axis=1)

    return TemperedRows(**{axis: joined(axis) for axis in TemperedRows.__slots__})


def _at(scores: Scores, temperature: float, column: int) -> Scores:
    """Return the scores with every log-prob at another temperature: log p / temperature - lse."""
    if temperature == 1.0:
        return scores
    lse_N = scores.stats.lse_NH[:, column]

    def converted(entries: Entries) -> Entries:
        return replace(entries, logp=_less(entries.logp / temperature, lse_N, entries.counts))

    return Scores(
        top=converted(scores.top),
        tail_samples=converted(scores.tail_samples),
        student=converted(scores.student),
        stats=replace(scores.stats, token_logp_N=scores.stats.token_logp_N / temperature - lse_N),
    )


def _tail_samples(scores: Scores, at: Entries, norm_N: Floats) -> tuple[Floats, Floats]:
    """Return the log-probs and log-weights [R] of the tail samples.

    Each of the m samples of a position has the weight tail / m, times the ratio of its probabilities at the temperature
    and at temperature 1, at which it was drawn. A sample has weight 0 if its token is a student-support token, because
    the stored entries count it already.
    """
    samples, tail_N = scores.tail_samples, np.maximum(scores.stats.tail_NH[:, 0], _TAIL_FLOOR)
    share_N = np.log(tail_N / np.maximum(samples.counts, 1, dtype=np.float32))
    logp_R = _less(at.logp, norm_N, samples.counts)
    weight_R = logp_R - samples.logp + spread(share_N, samples.counts)
    held_R = _in_student(samples, scores.student)
    logp_R[held_R], weight_R[held_R] = 0, -np.inf
    return logp_R, weight_R


def _in_student(samples: Entries, student: Entries) -> NDArray[np.int64]:
    """Return the indices of the tail samples whose token is a student-support token of the same position."""
    # Student-support tokens mark the hash slot id % 64 of their position. Only samples in a marked slot are candidates.
    place_N = np.arange(0, _SLOTS * len(student.counts), _SLOTS)
    marked, place_R = np.zeros(len(place_N) * _SLOTS, np.bool_), spread(place_N, samples.counts)
    marked[spread(place_N, student.counts) + (student.ids & _SLOTS - 1)] = True
    candidates = np.flatnonzero(marked[place_R + (samples.ids & _SLOTS - 1)])
    # Compare each candidate with all student-support tokens of its position.
    owner_R = place_R[candidates] // _SLOTS
    pairs_R = student.counts[owner_R]
    sample_of_pair = spread(candidates, pairs_R)
    shift_R = starts(student.counts)[owner_R] - starts(pairs_R)
    student_of_pair = np.arange(len(sample_of_pair)) + spread(shift_R, pairs_R)
    held: NDArray[np.int64] = sample_of_pair[student.ids[student_of_pair] == samples.ids[sample_of_pair]]
    return held


def _less(values: Floats, values_N: Floats, counts_N: Ints) -> Floats:
    """Return the entries' values minus the value of their position."""
    difference: Floats = spread(values_N, counts_N)
    np.subtract(values, difference, out=difference)
    return difference
