"""Collate sequences outside a training round, for benchmarks and tests."""

from collections.abc import Sequence

import numpy as np

from pipeline.core.types import Rollout, Scores
from pipeline.losses.batch import Batch
from pipeline.training.collate import CompletionArrays, collate
from pipeline.training.temperature import at_temperature


def collate_scores(rollouts: Sequence[Rollout], scores: Scores, *, temperature: float, column: int) -> Batch:
    """Return one batch of rollouts without advantages.

    Args:
        rollouts: The sequences.
        scores: The scores of all rollouts, in the same order.
        temperature: The temperature of the loss.
        column: The column of this temperature in the scores.
    """
    tempered = at_temperature(scores, temperature=temperature, column=column)
    completions = [CompletionArrays.of(rollout) for rollout in rollouts]
    return collate(rollouts, completions, tempered, np.zeros(len(rollouts), np.float32))
