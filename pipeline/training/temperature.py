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

from pipeline.core.types import Entries, Floats, Ints, Scores
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

    top: Ints  # [2, E] token ids, log-probs
    student: Ints  # [2, U] token ids, log-probs
    tail_samples: Ints  # [3, R] token ids, log-probs, log of each one's weight in the mean over the tail (-inf: none)
    stats: Ints  # [7, N] the rest, below

    top_n = property(lambda self: self.stats[0])
    student_n = property(lambda self: self.stats[1])
    tail_samples_n = property(lambda self: self.stats[2])
    stored_only_because_sampled_N = property(lambda self: self.stats[3] != 0)
    tail_N = property(lambda self: self.stats[4].view(np.float32))  # mass outside top and student-support tokens
    token_logp_N = property(lambda self: self.stats[5].view(np.float32))  # of the sampled token, not normalised
    tail_mean_N = property(lambda self: self.stats[6].view(np.float32))  # at temperature 1


def at_temperature(scores: Scores, *, temperature: float, column: int) -> TemperedRows:
    """`column` is the temperature's column in the scores."""
    assert (scores.top.counts > 0).all(), "a position without top tokens"
    at = _at(scores, temperature, column)
    top, student = at.top, at.student
    tail_N = np.maximum(scores.stats.student_tail_NH[:, column], _TAIL_FLOOR)
    # one-byte values do not add up to one: make the bucketed row a distribution again
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
    """Log-probs and log-weights of the draws.

    A draw counts tail / m, reweighted from temperature 1, and nothing if the union holds its token already.
    """
    samples, tail_N = scores.tail_samples, np.maximum(scores.stats.tail_NH[:, 0], _TAIL_FLOOR)
    share_N = np.log(tail_N / np.maximum(samples.counts, 1, dtype=np.float32))
    logp_R = _less(at.logp, norm_N, samples.counts)
    weight_R = logp_R - samples.logp + spread(share_N, samples.counts)
    held_R = _in_student(samples, scores.student)
    logp_R[held_R], weight_R[held_R] = 0, -np.inf
    return logp_R, weight_R


def _in_student(samples: Entries, student: Entries) -> NDArray[np.int64]:
    """Return the tail samples whose token is a student-support token of its position.

    Only a sample that finds a mark is compared with all student-support tokens of its position.
    """
    place_N = np.arange(0, _SLOTS * len(student.counts), _SLOTS)
    marked, place_R = np.zeros(len(place_N) * _SLOTS, np.bool_), spread(place_N, samples.counts)
    marked[spread(place_N, student.counts) + (student.ids & _SLOTS - 1)] = True
    candidates = np.flatnonzero(marked[place_R + (samples.ids & _SLOTS - 1)])
    owner_R = place_R[candidates] // _SLOTS
    pairs_R = student.counts[owner_R]
    sample_of_pair = spread(candidates, pairs_R)
    shift_R = starts(student.counts)[owner_R] - starts(pairs_R)
    student_of_pair = np.arange(len(sample_of_pair)) + spread(shift_R, pairs_R)
    held: NDArray[np.int64] = sample_of_pair[student.ids[student_of_pair] == samples.ids[sample_of_pair]]
    return held


def _less(values: Floats, of_N: Floats, counts_N: Ints) -> Floats:
    """Values less that of their row."""
    less: Floats = spread(of_N, counts_N)
    np.subtract(values, less, out=less)
    return less
