"""Score rollouts: take known scores from the store, and run the teacher on the remaining rollouts.

* The teacher is loaded only if a score is missing.
* New scores are published to the store every `flush_every` sequences, so a run that was killed finds its work there.
* One part is written in the background while the next one is scored, never more: memory and the work that a kill loses
  are at most two parts.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Precision, Rollout, ScoredSequence, Scores
from pipeline.runtime.config import Positive
from pipeline.runtime.progress import bar
from pipeline.scoring.scorer import Scorer, TruncationParams
from pipeline.store.keys import Key, key_of, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringParams:
    """The parameters of scoring."""

    precision: Precision
    """Number format of the teacher's body; the LM head runs in float32."""
    batch_size: Positive
    """Sequences per forward pass; docs/concepts.md says where it changes the last bits of a score."""
    flush_every: Positive
    """Sequences between two publications to the store; a kill loses at most the work of twice as many."""
    codec: str
    """The codec that packs scores: one of `sqrt8`, `topk`, `rskd`."""
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
    """Return every rollout with its scores, in order; only rollouts without known scores reach the teacher.

    Args:
        rollouts: The rollouts.
        known: Scores by key, from the store.
        load_scorer: Loads the teacher; called at most once.
        publish: Writes scored sequences to the store.
        p: The parameters of scoring.
        title: The title of the progress bar.

    Raises:
        DataError: A rollout does not fit into the teacher's context.
        ModelError: The teacher's logits contain NaN or infinity; nothing of their part is published.
    """
    scores = dict(known)
    missing = unknown(rollouts, known)
    if missing:
        scorer = load_scorer()
        with bar(title, tokens_to_read(missing)) as meter, ThreadPoolExecutor(max_workers=1) as writer:
            written: Future[object] = writer.submit(lambda: None)
            for start in range(0, len(missing), p.flush_every):
                part = missing[start : start + p.flush_every]
                pairs = zip(part, scorer.score(part, meter.update), strict=True)
                sequences = [ScoredSequence(rollout=rollout, scores=scored) for rollout, scored in pairs]
                scores |= {key_of(sequence.rollout): sequence.scores for sequence in sequences}
                written.result()  # raises the error of the previous part's writing
                written = writer.submit(publish, sequences)
            written.result()
    return [ScoredSequence(rollout=rollout, scores=scores[key_of(rollout)]) for rollout in rollouts]
