"""Synthetic segments for measurements: placeholder headers, and random scores with realistic counts."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Scores
from pipeline.store.codecs import CODECS, config_of
from schemas.manifest import SegmentHeader


def placeholder_header(codec: str, vocab: int) -> SegmentHeader:
    """Return a header with empty names, at temperature 1."""
    return SegmentHeader(
        scorer="",
        teacher="",
        tokenizer="",
        template="",
        engine="",
        dtype="",
        vocab_size=vocab,
        temperatures=(1.0,),
        scoring={},
        codec=codec,
        codec_config=config_of(CODECS[codec]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Numbers of entries per position: Poisson numbers whose means have a gamma distribution, up to a largest number.

    The tuples are shape and mean of the gamma distribution, and the largest number.
    """

    top: tuple[float, float, int]
    """Top tokens; every position has one more entry than this number."""

    student: tuple[float, float, int]
    """Student-support tokens."""

    tail: float
    """Second parameter of the beta distribution of the tail mass; the first is 0.5."""

    min_tail: float
    samples_per_tail: float


WIDE = Widths(top=(4, 17, 127), student=(4, 3, 127), tail=3.5, min_tail=0.02, samples_per_tail=24)
"""Wider than scores are in practice: padding takes most of the time."""

NEAR = Widths(top=(2, 9.2, 39), student=(1.5, 2.7, 16), tail=4.5, min_tail=0.3, samples_per_tail=12)
"""As the default truncation stores the completions of a student near its teacher (docs/decisions/ has the counts)."""


def synthetic_scores(rng: np.random.Generator, n: int, vocab: int, widths: Widths = WIDE) -> Scores:
    """Return random scores of `n` positions, whose entries are mostly at neighbouring token ids."""
    top_n = 1 + _counts(rng, n, widths.top)
    student_n = _counts(rng, n, widths.student)
    tail_N1 = rng.beta(0.5, widths.tail, (n, 1)).astype(np.float32)
    tail_sample_n = np.where(tail_N1 > widths.min_tail, np.ceil(tail_N1 * widths.samples_per_tail), 0)[:, 0].astype(
        np.int32
    )
    entries_N = top_n + student_n
    steps = 1 + rng.lognormal(4, 2, entries_N.sum()).astype(np.int64) % (vocab // 132)
    starts_N = np.cumsum(entries_N) - entries_N
    ids = np.cumsum(steps)
    ids = (ids - np.repeat(ids[starts_N] - steps[starts_N], entries_N)).astype(np.int32)
    order = np.lexsort((rng.random(len(ids)), np.repeat(np.arange(n), entries_N)))
    is_top = np.empty(len(ids), dtype=np.bool_)
    is_top[order] = np.arange(len(ids)) - np.repeat(starts_N, entries_N) < np.repeat(top_n, entries_N)
    logp = np.log(np.clip(rng.beta(0.3, 6, len(ids)), 1e-6, 1)).astype(np.float32)
    samples, token_logp_N = int(tail_sample_n.sum()), -rng.exponential(1, n).astype(np.float32)
    tail_samples = Entries(
        ids=rng.integers(0, vocab, samples).astype(np.int32),
        logp=(-7 - rng.exponential(2, samples)).astype(np.float32),
        counts=tail_sample_n,
    )
    top = Entries(ids=ids[is_top], logp=logp[is_top], counts=top_n.astype(np.int32))
    student = Entries(ids=ids[~is_top], logp=logp[~is_top], counts=student_n.astype(np.int32))
    scores = Scores.of_top(top, tail_NH=tail_N1, entropy_NH=np.ones((n, 1), np.float32), token_logp_N=token_logp_N)
    stats = replace(scores.stats, student_tail_NH=tail_N1 * np.float32(0.9))
    return Scores(top=top, tail_samples=tail_samples, student=student, stats=stats)


def _counts(rng: np.random.Generator, n: int, width: tuple[float, float, int]) -> NDArray[np.int64]:
    """Return `n` numbers of entries."""
    shape, mean, largest = width
    return np.minimum(rng.poisson(rng.gamma(shape, mean / shape, n)), largest)
