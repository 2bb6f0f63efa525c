"""The data set as a teacher: certain of every token that it wrote, at every temperature.

A head of one token with all the mass, so that forward KL to this teacher is the cross-entropy. It lets supervised
fine-tuning take the same pools, batches and objective as distillation without a model that scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.types import Rollout, Scores
from pipeline.losses.divergences import DivergenceParams
from pipeline.losses.objective import ObjectiveParams
from pipeline.runtime.config import Positive
from pipeline.store.stretch import Stretch
from pipeline.training.batches import BatchParams, Pick, make_pool, plan_steps
from pipeline.training.loop import OptimizerParams


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
    n = len(ids)
    zero_N, none = np.zeros(n, np.float32), np.zeros(0, np.int32)
    return Scores(
        head_ids=ids,
        head_logp=zero_N,
        head_n=np.ones(n, np.int32),
        tail_NH=zero_N[:, None],
        lse_NH=zero_N[:, None],
        entropy_NH=zero_N[:, None],
        token_logp_N=zero_N,
        realised_only_N=np.zeros(n, np.bool_),
        draw_ids=none,
        draw_logp=none.astype(np.float32),
        draw_n=np.zeros(n, np.int32),
        union_ids=none,
        union_logp=none.astype(np.float32),
        union_n=np.zeros(n, np.int32),
        union_tail_NH=zero_N[:, None],
        tail_g_N=np.full(n, np.nan, np.float32),
    )


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


def plan_references(rollouts: Sequence[Rollout], p: SftParams, *, key: Sequence[object]) -> list[list[list[Pick]]]:
    """For each step its micro-batches of rollouts that are right in every token."""
    nobody, pool = (make_pool(some, OneHotTeacher(rollouts=some), p.batches) for some in ([], rollouts))
    return plan_steps(nobody, pool, p.batches, key=key, steps=range(p.steps), replay=0.0)
