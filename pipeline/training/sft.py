"""Supervised fine-tuning (SFT): one-hot teacher distributions for the tokens of references.

SFT uses the pools, batches and objective of distillation. The one-hot teacher stores one top token with all the mass,
so that forward KL to this teacher is the cross-entropy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Entries, Rollout, Scores
from pipeline.losses.divergences import DivergenceParams
from pipeline.losses.objective import ObjectiveParams
from pipeline.runtime.config import Positive
from pipeline.store.windows import Stretch
from pipeline.training.batches import BatchParams
from pipeline.training.optimizer import OptimizerParams


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHotTeacher:
    """A `ScoreReader` with one-hot distributions, the same at every temperature."""

    rollouts: Sequence[Rollout]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Return the scores of the rollouts in rows [start, stop)."""
        completions = [rollout.scored_ids for rollout in self.rollouts[start:stop]]
        ids = np.array([token for completion in completions for token in completion], np.int32)
        zero_N = np.zeros(len(ids), np.float32)
        top, zero_N1 = Entries(ids=ids, logp=zero_N, counts=np.ones(len(ids), np.int32)), zero_N[:, None]
        scores = Scores.of_top(top, tail_NH=zero_N1, entropy_NH=zero_N1, token_logp_N=zero_N)
        return [Stretch.of(start, scores, np.array([len(completion) for completion in completions]))]


@dataclass(frozen=True, slots=True, kw_only=True)
class SftParams:
    """The fine-tuning of a teacher or student on references, before distillation."""

    references: Positive | None
    """Number of training prompts whose references are read, from the first; null means all."""
    steps: Positive
    """Optimizer steps."""
    batch_size: Positive
    """References in one optimizer step."""
    micro_batch_size: Positive
    """References in one forward and backward pass."""
    optimizer: OptimizerParams
    """Settings as in the section `optimizer`; save_dtype and keep_rounds do nothing here."""

    @property
    def batches(self) -> BatchParams:
        """The batches of references only, shuffled as a whole."""
        return BatchParams(
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            student_fraction=0.0,
            corpus_weights=None,
            shuffle_window=1 << 30,
            scale_rewards="none",
        )


def cross_entropy(chunk_tokens: int) -> ObjectiveParams:
    """Return the objective that is the cross-entropy -log q of each token."""
    return ObjectiveParams(
        divergence=DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False),
        temperature=1.0,
        tail_estimator="bucket",
        tail_samples_scale=0.0,
        tail_mean_staleness=1.0,
        cross_entropy=1.0,
        alpha=1.0,
        clip_epsilon=1.0,
        chunk_tokens=chunk_tokens,
    )
