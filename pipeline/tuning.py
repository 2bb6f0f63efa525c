"""Supervised fine-tuning on a task's references: the training loop with cross-entropy for an objective.

What the paper starts from: a teacher that knows the task, and a student that answers in its form. The same loop,
optimizer, batches and log as distillation, with the data set for a teacher (`pipeline.certain`); so a run that was
killed goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.batches import BatchParams, Pick, make_pool, plan_steps
from pipeline.certain import Certain
from pipeline.divergence import DivergenceParams
from pipeline.objective import ObjectiveParams
from pipeline.params import Positive
from pipeline.records import Rollout
from pipeline.training import OptimizerParams


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
            window=1 << 30,
            scale_rewards="none",
        )


def cross_entropy(chunk_tokens: int) -> ObjectiveParams:
    """-log q of the token itself and nothing else."""
    return ObjectiveParams(
        divergence=DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False),
        temperature=1.0,
        support="bucket",
        tail_draws_scale=0.0,
        g_staleness=1.0,
        cross_entropy=1.0,
        alpha=1.0,
        epsilon=1.0,
        chunk_tokens=chunk_tokens,
    )


def plan_references(rollouts: Sequence[Rollout], p: SftParams, *, key: Sequence[object]) -> list[list[list[Pick]]]:
    """For each step its micro-batches of rollouts that are right in every token."""
    nobody, pool = (make_pool(some, Certain(rollouts=some), p.batches) for some in ([], rollouts))
    return plan_steps(nobody, pool, p.batches, key=key, steps=range(p.steps), replay=0.0)
