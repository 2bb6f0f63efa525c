"""The data set as a teacher: certain of every token that it wrote, at every temperature.

A head of one token with all the mass, so that forward KL to this teacher is the cross-entropy. It lets supervised
fine-tuning take the same pools, batches and objective as distillation without a model that scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Entries, Rollout, Scores
from pipeline.losses.divergences import DivergenceParams
from pipeline.losses.objective import ObjectiveParams
from pipeline.runtime.config import Positive
from pipeline.store.stretch import Stretch
from pipeline.training.batches import BatchParams
from pipeline.training.optimizer import OptimizerParams


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHotTeacher:
    """A source of scores for `windows`."""

    rollouts: Sequence[Rollout]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Of the rollouts in rows [start, stop)."""
        completions = [one.completion_ids for one in self.rollouts[start:stop]]
        ids = np.array([token for one in completions for token in one], np.int32)
        return [Stretch.of(start, _certain_of(ids), np.array([len(one) for one in completions]))]


def _certain_of(ids: np.ndarray[tuple[int], np.dtype[np.int32]]) -> Scores:
    zero_N = np.zeros(len(ids), np.float32)
    top, zero_N1 = Entries(ids=ids, logp=zero_N, counts=np.ones(len(ids), np.int32)), zero_N[:, None]
    return Scores.of_top(top, tail_NH=zero_N1, entropy_NH=zero_N1, token_logp_N=zero_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class SftParams:
    """How a model is tuned on the references of all training prompts before it teaches or learns."""

    steps: Positive
    """Optimizer steps."""
    batch_size: Positive
    """References in one optimizer step."""
    micro_batch_size: Positive
    """References in one forward and backward pass."""
    optimizer: OptimizerParams
    """As the section of that name."""

    @property
    def batches(self) -> BatchParams:
        """References only, shuffled as a whole."""
        return BatchParams(
            batch_size=self.batch_size,
            micro_batch_size=self.micro_batch_size,
            student_fraction=0.0,
            corpus_weights=None,
            shuffle_window=1 << 30,
            scale_rewards="none",
        )


def cross_entropy(chunk_tokens: int) -> ObjectiveParams:
    """-log q of the token itself and nothing else."""
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
