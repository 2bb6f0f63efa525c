"""Score stored sequences again, and compare: whether the store's scores are the teacher's, within the codec's bounds.

The sequences are scored on their stored top tokens, so that every stored entry has a new log-prob. Two limits hold:

* Per entry of at least `MIN_P`: the codec's bound in sqrt(p) or in log(p), whichever is tighter, plus `ROUNDING` for
  the engine.
* On average over positions: the forward KL from the new row to the stored row, over the entries and the tail as one
  outcome. The limit follows from the same two numbers. With d = |sqrt(p) - sqrt(q)| <= s + sqrt(p) a / 2 at each of C
  outcomes (s is the codec's bound, a the engine's), KL(p || q) <= sum (p - q)^2 / q <= (1 + r)^2 (sqrt(C) s + a / 2)^2,
  where r bounds sqrt(p / q). Normalising q only lowers it.

The cost is that of scoring the sequences.
Array suffixes: see `pipeline.core.types`.
"""

import heapq
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Floats, Scores, TokenSequence
from pipeline.runtime.config import section
from pipeline.runtime.errors import StoreError
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.runtime.progress import bar
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.manifest import read_manifest
from pipeline.store.ragged import owners
from pipeline.store.segment_reader import Segment
from pipeline.store_admin.integrity import segments

MIN_P = 1e-3
_TINY = 1e-9  # smaller tails are the result of rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericalTolerance:
    """The differences that batch shape, thread count or processor may make in a log-prob above MIN_P, in nats."""

    largest: float
    typical: float  # root mean square over the distribution of a row


# Tolerances by the dtype of the teacher's body.
ROUNDING = {
    # Measured: at most 4e-5.
    "torch.float32": NumericalTolerance(largest=0.01, typical=0.001),
    # Measured over 1,566 entries: at most 0.25, and 0.02.
    "torch.bfloat16": NumericalTolerance(largest=0.5, typical=0.05),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSequence:
    """A stored sequence that is scored again."""

    tokens: TokenSequence
    stored: Scores
    sqrt_p: float  # the codec's bound in sqrt(p)
    log_p: float  # the codec's bound in log(p), nats


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreResult:
    """The differences between the stored scores and the teacher's, in nats."""

    sequences: int
    positions: int
    entries: int  # of at least MIN_P
    largest: float
    mean: float
    mean_kl: float
    allowed_kl: float
    excess: float  # the largest difference beyond bound and allowance; 0 if there is none
    allowance: float

    @property
    def holds(self) -> bool:
        """Whether codec and engine explain all differences."""
        return self.excess == 0 and self.mean_kl <= self.allowed_kl


def comparable(paths: Sequence[Path], scorer: str) -> list[Path]:
    """Return the segments that this scorer wrote, which is a teacher in a configuration."""
    return [path for path in paths if read_manifest(path).scorer == scorer]


def sample_sequences(paths: Sequence[Path], count: int) -> list[SampledSequence]:
    """Return at most `count` sequences with completions.

    The choice is the same each time, and changes little if the store gets another segment.

    Raises:
        StoreError: A segment is damaged.
    """
    rows = ((path, row) for path in paths for row in range(read_manifest(path).sequences))
    chosen = sorted(heapq.nsmallest(count, rows, key=lambda place: derive_seed("rescore", place[0].name, place[1])))
    sampled: list[SampledSequence] = []
    for path, places in itertools.groupby(chosen, key=lambda place: place[0]):
        segment = Segment.open(path)
        sampled += [_read(segment, row) for _, row in places]
    completed = [sequence for sequence in sampled if sequence.tokens.completion_ids]
    return sorted(completed, key=lambda sequence: sequence.tokens.prompt_ids)


def _read(segment: Segment, row: int) -> SampledSequence:
    (stored,) = segment.read(row, row + 1)
    top_ids = [ids.tolist() for ids in np.split(stored.top.ids, np.cumsum(stored.top.counts)[:-1])]
    return SampledSequence(
        tokens=replace(segment.tokens(row), support_ids=top_ids),
        stored=stored,
        sqrt_p=segment.manifest.error_bounds["sqrt_p"],
        log_p=segment.manifest.error_bounds["log_p"],
    )


def compare(
    sampled: Sequence[SampledSequence], scorer: Scorer, on_tokens: Callable[[int], object], rounding: NumericalTolerance
) -> RescoreResult:
    """Score sequences again, and return the differences to the stored scores.

    Args:
        sampled: At least one sequence.
        scorer: The teacher.
        on_tokens: Called with the number of tokens that were read, for progress bars.
        rounding: The tolerance for the engine.
    """
    new = scorer.score([sequence.tokens for sequence in sampled], on_tokens)
    parts = [_differences(sequence, scores, rounding) for sequence, scores in zip(sampled, new, strict=True)]
    difference, excess, kl_N, allowed_N = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return RescoreResult(
        sequences=len(sampled),
        positions=len(kl_N),
        entries=len(difference),
        largest=float(difference.max(initial=0)),
        mean=float(difference.mean()) if len(difference) else 0.0,
        mean_kl=float(kl_N.mean()),
        allowed_kl=float(allowed_N.mean()),
        excess=max(0.0, float(excess.max(initial=0))),
        allowance=rounding.largest,
    )


def _differences(
    sequence: SampledSequence, new: Scores, rounding: NumericalTolerance
) -> tuple[Floats, Floats, Floats, Floats]:
    """Compare the scores of one sequence.

    Returns:
        Of the entries of at least MIN_P, the absolute difference and its excess over the bound; of the positions, the
        KL and its limit. All in nats.
    """
    stored, positions = sequence.stored, len(sequence.stored)
    owner = owners(stored.top.counts)
    logp, new_logp = stored.top.logp.astype(np.float64), _new_logp(stored, new)
    difference, least = np.abs(logp - new_logp), np.minimum(logp, new_logp)
    bound = np.minimum(sequence.log_p, 2 * np.log1p(sequence.sqrt_p * np.exp(-least / 2)))
    large = logp >= np.log(MIN_P)
    p, q = np.exp(new_logp), np.exp(logp)
    tail_N = np.maximum(1 - np.bincount(owner, weights=p, minlength=positions), 0)
    sum_N = np.bincount(owner, weights=q, minlength=positions) + stored.stats.tail_NH[:, 0]
    kl_N = np.bincount(owner, weights=p * (new_logp - logp), minlength=positions) + np.log(sum_N)
    kl_N += tail_N * np.log(np.maximum(tail_N, _TINY) / np.maximum(stored.stats.tail_NH[:, 0], _TINY))
    ratio = np.exp((sequence.log_p + rounding.largest) / 2)
    allowed_N = ((1 + ratio) * (np.sqrt(stored.top.counts + 1) * sequence.sqrt_p + rounding.typical / 2)) ** 2
    return difference[large], (difference - bound - rounding.largest)[large], kl_N, allowed_N


def _new_logp(stored: Scores, new: Scores) -> Floats:
    """Return the new log-prob of every stored top token: of a top or a student-support token of the new scores."""
    keys, stored_keys = (
        np.concatenate([owners(entries.counts) << 32 | entries.ids for entries in groups])
        for groups in ((new.top, new.student), (stored.top,))
    )
    order = np.argsort(keys)
    index = order[np.searchsorted(keys, stored_keys, sorter=order)]
    assert np.array_equal(keys[index], stored_keys), "a stored token has no new log-prob"
    return np.concatenate([new.top.logp, new.student.logp])[index].astype(np.float64)


def rescore(count: int) -> tuple[RescoreResult, int]:
    """Compare at most `count` stored sequences with the teacher of the project.

    Returns:
        The differences, and the number of segments that this teacher did not write.

    Raises:
        StoreError: The store has no sequence that this teacher scored, or a segment is damaged.
    """
    teacher, paths = CachedTeacher.open(section(LAYOUT.params, ScoringParams, "scoring")), segments(store_root())
    own = comparable(paths, teacher.header.scorer)
    sampled = sample_sequences(own, count)
    if not sampled:
        expected = f"scores by {LAYOUT.teacher} in the configuration of {LAYOUT.params}"
        got, remedy = f"{len(paths)} segments, none of them with such", "run `make repro`, or verify without --rescore"
        raise StoreError(store_root(), expected=expected, got=got, remedy=remedy)
    scorer = teacher.scorer
    with redirect_stdout(sys.stderr), bar("rescore", tokens_to_read([part.tokens for part in sampled])) as meter:
        result = compare(sampled, scorer, meter.update, ROUNDING[teacher.header.dtype])
    return result, len(paths) - len(own)
