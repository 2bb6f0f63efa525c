"""Rollouts to scored sequences: ask the store first, and the teacher for what is missing.

The teacher is loaded only when something is missing. What it scores goes into the store every `flush_every`
sequences, so a killed run finds its own work there; no other journal is needed. One part is written while the next is
scored, never more: memory, and what a kill costs, stay at two parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Precision, Rollout, Scores
from pipeline.runtime.config import Positive
from pipeline.runtime.progress import bar
from pipeline.scoring.scorer import Scorer, TruncationParams
from pipeline.store.keys import Key, key_of, unknown
from pipeline.store.records import ScoredSequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringParams:
    """How the teacher scores."""

    precision: Precision
    """Of the teacher's body; the head runs in float32."""
    batch_size: Positive
    """Sequences in one forward pass. A score's last bits do not depend on it on CPUs with AVX2 or AVX-512 and a decoder
    that sees all of its text; with 1 nowhere."""
    flush_every: Positive
    """Sequences between two publications to the store; a kill can cost twice as many."""
    codec: str
    """How the store packs a score."""
    truncation: TruncationParams


def score_rollouts(
    rollouts: Sequence[Rollout],
    known: Mapping[Key, Scores],
    load_scorer: Callable[[], Scorer],
    publish: Callable[[Sequence[ScoredSequence]], object],
    p: ScoringParams,
    *,
    title: str,
) -> list[ScoredSequence]:
    """Every rollout with its scores, in the given order; only sequences not in `known` reach the teacher."""
    scores = dict(known)
    missing = unknown(rollouts, known)
    if missing:
        scorer = load_scorer()
        with bar(title, tokens_to_read(missing)) as meter, _in_background(publish) as publish_next:
            for start in range(0, len(missing), p.flush_every):
                part = missing[start : start + p.flush_every]
                scored = scorer.score(part, meter.update)
                fresh = [ScoredSequence(rollout=one, scores=rows) for one, rows in zip(part, scored, strict=True)]
                publish_next(fresh)
                scores.update({key_of(one.rollout): one.scores for one in fresh})
    return [ScoredSequence(rollout=one, scores=scores[key_of(one)]) for one in rollouts]


@contextmanager
def _in_background(
    publish: Callable[[Sequence[ScoredSequence]], object],
) -> Iterator[Callable[[Sequence[ScoredSequence]], None]]:
    """Publishes one part at a time in a thread, in order; the next call, or the end, raises what went wrong there."""
    with ThreadPoolExecutor(max_workers=1) as writer:
        running: Future[object] | None = None

        def submit(fresh: Sequence[ScoredSequence]) -> None:
            nonlocal running
            if running is not None:
                running.result()
            running = writer.submit(publish, fresh)

        yield submit
        if running is not None:
            running.result()
