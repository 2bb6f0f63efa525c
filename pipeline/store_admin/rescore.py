"""Ask the teacher again: whether what the store says is what this teacher says, within what the codec promises.

Drawn sequences are scored anew on the tokens that the store has for them, so that every stored entry meets a fresh
log-prob. Two limits hold: at each entry of at least `MIN_P` the codec's bound, in sqrt(p) or in log(p), whichever is
tighter there, plus `ROUNDING` for the engine; and on the average the forward KL of the fresh row to the stored
one, over the entries and the tail as one outcome. The KL's limit follows from the same two numbers. With
d = |sqrt(p) - sqrt(q)| <= s + sqrt(p) a / 2 at each of C outcomes (s the codec's bound, a the engine's),
KL(p || q) <= sum (p - q)^2 / q <= (1 + r)^2 (sqrt(C) s + a / 2)^2, where r bounds sqrt(p / q); rescaling q to a
distribution only lowers it.
Cost: that of scoring. Not taken: comparing encoded bytes, which differ wherever rounding crosses an edge.

Array suffixes: see `pipeline.core.types`.
"""

import heapq
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_read
from pipeline.core.types import Floats, Scores, TokenSequence
from pipeline.runtime.config import section
from pipeline.runtime.errors import StoreError
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.runtime.progress import bar
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.manifest import read_manifest
from pipeline.store.segment_reader import Segment
from pipeline.store_admin.integrity import segments

MIN_P = 1e-3
_TINY = 1e-9  # a smaller tail is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericalTolerance:
    """What another batch shape, thread count or processor may change in a log-prob above MIN_P; nats."""

    largest: float
    typical: float  # root mean square over a row's distribution


ROUNDING = {
    "torch.float32": NumericalTolerance(largest=0.01, typical=0.001),  # measured: 4e-5 at most
    "torch.bfloat16": NumericalTolerance(largest=0.5, typical=0.05),  # measured: .25 at most over 1,566 entries, .02
}
"""By the dtype of the teacher's body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledSequence:
    """One stored sequence to score again."""

    to_score: TokenSequence
    stored: Scores
    sqrt_p: float  # the codec's bounds
    log_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoreResult:
    """How far the store and the teacher are apart; nats."""

    sequences: int
    positions: int
    entries: int  # of at least MIN_P
    largest: float
    mean: float
    mean_kl: float
    allowed_kl: float
    excess: float  # the most by which an entry is beyond its bound and the allowance; 0 where none is
    allowance: float

    @property
    def holds(self) -> bool:
        """Nothing is beyond what codec and engine explain."""
        return self.excess == 0 and self.mean_kl <= self.allowed_kl


def comparable(paths: Sequence[Path], scorer: str) -> list[Path]:
    """The segments that this scorer wrote: this teacher in this configuration."""
    return [one for one in paths if read_manifest(one).scorer == scorer]


def draw(paths: Sequence[Path], count: int) -> list[SampledSequence]:
    """At most `count` sequences with completions, the same ones each time; a segment that is added moves few."""
    rows = ((path, row) for path in paths for row in range(read_manifest(path).sequences))
    chosen = heapq.nsmallest(count, rows, key=lambda one: derive_seed("rescore", one[0].name, one[1]))
    found: list[SampledSequence] = []
    for path in sorted({path for path, _ in chosen}):
        segment = Segment.open(path)
        found += [_drawn(segment, row) for owner, row in sorted(chosen) if owner == path]
    return sorted((one for one in found if one.to_score.completion_ids), key=lambda one: one.to_score.prompt_ids)


def _drawn(segment: Segment, row: int) -> SampledSequence:
    (stored,) = segment.read(row, row + 1)
    prompt_ids, completion_ids = segment.tokens(row)
    heads = np.split(stored.top.ids, np.cumsum(stored.top.counts)[:-1])
    return SampledSequence(
        to_score=TokenSequence(
            prompt_ids=prompt_ids,
            completion_ids=completion_ids,
            support_ids=[one.tolist() for one in heads],
        ),
        stored=stored,
        sqrt_p=segment.manifest.error_bounds["sqrt_p"],
        log_p=segment.manifest.error_bounds["log_p"],
    )


def compare(
    drawn: Sequence[SampledSequence], scorer: Scorer, on_tokens: Callable[[int], object], rounding: NumericalTolerance
) -> RescoreResult:
    """Score the sequences again and set them beside what is stored; there is at least one."""
    fresh = scorer.score([one.to_score for one in drawn], on_tokens)
    parts = [_apart(one, scores, rounding) for one, scores in zip(drawn, fresh, strict=True)]
    difference, excess, kl_N, allowed_N = (np.concatenate(one) for one in zip(*parts, strict=True))
    return RescoreResult(
        sequences=len(drawn),
        positions=len(kl_N),
        entries=len(difference),
        largest=float(difference.max(initial=0)),
        mean=float(difference.mean()) if len(difference) else 0.0,
        mean_kl=float(kl_N.mean()),
        allowed_kl=float(allowed_N.mean()),
        excess=max(0.0, float(excess.max(initial=0))),
        allowance=rounding.largest,
    )


def _apart(one: SampledSequence, fresh: Scores, rounding: NumericalTolerance) -> tuple[Floats, Floats, Floats, Floats]:
    """|difference| and what of it is too much, of the entries above MIN_P; KL and its limit, of the positions."""
    stored, positions = one.stored, len(one.stored)
    owner = np.repeat(np.arange(positions), stored.top.counts)
    logp, fresh_logp = stored.top.logp.astype(np.float64), _fresh_logp(stored, fresh)
    difference, least = np.abs(logp - fresh_logp), np.minimum(logp, fresh_logp)
    bound = np.minimum(one.log_p, 2 * np.log1p(one.sqrt_p * np.exp(-least / 2)))
    seen = logp >= np.log(MIN_P)
    p, q = np.exp(fresh_logp), np.exp(logp)
    tail_N = np.maximum(1 - np.bincount(owner, weights=p, minlength=positions), 0)
    sum_N = np.bincount(owner, weights=q, minlength=positions) + stored.stats.tail_NH[:, 0]
    kl_N = np.bincount(owner, weights=p * (fresh_logp - logp), minlength=positions) + np.log(sum_N)
    kl_N += tail_N * np.log(np.maximum(tail_N, _TINY) / np.maximum(stored.stats.tail_NH[:, 0], _TINY))
    ratio = np.exp((one.log_p + rounding.largest) / 2)
    allowed_N = ((1 + ratio) * (np.sqrt(stored.top.counts + 1) * one.sqrt_p + rounding.typical / 2)) ** 2
    return difference[seen], (difference - bound - rounding.largest)[seen], kl_N, allowed_N


def _fresh_logp(stored: Scores, fresh: Scores) -> Floats:
    """The fresh log-prob of every stored entry: it lies in the fresh head or, having been asked for, in the union."""
    known = [
        dict(zip(zip(_owners(entries.counts), entries.ids.tolist(), strict=True), entries.logp.tolist(), strict=True))
        for entries in (fresh.top, fresh.student)
    ]
    found = known[0] | known[1]
    return np.array([found[place] for place in zip(_owners(stored.top.counts), stored.top.ids.tolist(), strict=True)])


def _owners(n_N: np.ndarray) -> list[int]:
    owners: list[int] = np.repeat(np.arange(len(n_N)), n_N).tolist()
    return owners


def rescore(count: int) -> tuple[RescoreResult, int]:
    """How `count` stored sequences agree with the teacher, and how many segments it did not write."""
    oracle, paths = CachedTeacher.open(section(LAYOUT.params, ScoringParams, "scoring")), segments(store_root())
    ours = comparable(paths, oracle.header.scorer)
    drawn = draw(ours, count)
    if not drawn:
        raise StoreError(
            store_root(),
            expected=f"scores by {LAYOUT.teacher} in the configuration of {LAYOUT.params}",
            got=f"{len(paths)} segments, none of them with such",
            remedy="run `make repro`, or verify without --rescore",
        )
    sequences = [one.to_score for one in drawn]
    tokens = tokens_read([one.prompt_ids for one in sequences], [one.completion_ids for one in sequences])
    teacher = oracle.scorer
    with redirect_stdout(sys.stderr), bar("rescore", tokens) as meter:
        agreement = compare(drawn, teacher, meter.update, ROUNDING[oracle.header.dtype])
    return agreement, len(paths) - len(ours)
