"""Segments that exist for a measurement only: their headers, and scores by nobody."""

from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Scores
from pipeline.store.codecs import CODECS, config_of
from pipeline.store.records import SegmentHeader


def nameless(codec: str, vocab: int) -> SegmentHeader:
    """By nobody, at temperature 1."""
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
    """How many entries positions have: Poisson, with means from gamma distributions, and at most so many."""

    head: tuple[float, float, int]  # shape and mean of the gamma distribution, most; one more entry is always there
    union: tuple[float, float, int]
    tail: float  # second parameter of the tail's beta distribution; the first is .5
    min_tail: float
    samples_per_tail: float


WIDE = Widths(head=(4, 17, 127), union=(4, 3, 127), tail=3.5, min_tail=0.02, samples_per_tail=24)
"""Wider than scores are: padding takes most of the time."""

NEAR = Widths(head=(2, 9.2, 39), union=(1.5, 2.7, 16), tail=4.5, min_tail=0.3, samples_per_tail=12)
"""As the default support scores what a student near its teacher writes (docs/decisions.md has the counts)."""


def synthetic_scores(rng: np.random.Generator, n: int, vocab: int, widths: Widths = WIDE) -> Scores:
    """Entries at tokens that mostly lie close together, counts from gamma distributions."""
    (head, head_mean, most), (union, union_mean, most_union) = widths.head, widths.union
    head_n = 1 + np.minimum(rng.poisson(rng.gamma(head, head_mean / head, n)), most)
    union_n = np.minimum(rng.poisson(rng.gamma(union, union_mean / union, n)), most_union)
    tail_N1 = rng.beta(0.5, widths.tail, (n, 1)).astype(np.float32)
    draw_n = np.where(tail_N1 > widths.min_tail, np.ceil(tail_N1 * widths.samples_per_tail), 0)[:, 0].astype(np.int32)
    entries_N = head_n + union_n
    steps = 1 + rng.lognormal(4, 2, entries_N.sum()).astype(np.int64) % (vocab // 132)
    starts_N = np.cumsum(entries_N) - entries_N
    ids = np.cumsum(steps)
    ids = (ids - np.repeat(ids[starts_N] - steps[starts_N], entries_N)).astype(np.int32)
    order = np.lexsort((rng.random(len(ids)), np.repeat(np.arange(n), entries_N)))
    in_head = np.empty(len(ids), dtype=np.bool_)
    in_head[order] = np.arange(len(ids)) - np.repeat(starts_N, entries_N) < np.repeat(head_n, entries_N)
    logp = np.log(np.clip(rng.beta(0.3, 6, len(ids)), 1e-6, 1)).astype(np.float32)
    draws = int(draw_n.sum())
    return Scores(
        head_ids=ids[in_head],
        head_logp=logp[in_head],
        head_n=head_n.astype(np.int32),
        tail_NH=tail_N1,
        lse_NH=np.zeros_like(tail_N1),
        token_logp_N=-rng.exponential(1, n).astype(np.float32),
        entropy_NH=np.ones((n, 1), np.float32),
        realised_only_N=np.zeros(n, np.bool_),
        tail_g_N=np.full(n, np.nan, np.float32),
        draw_ids=rng.integers(0, vocab, draws).astype(np.int32),
        draw_logp=(-7 - rng.exponential(2, draws)).astype(np.float32),
        draw_n=draw_n,
        union_ids=ids[~in_head],
        union_logp=logp[~in_head],
        union_n=union_n.astype(np.int32),
        union_tail_NH=tail_N1 * np.float32(0.9),
    )
