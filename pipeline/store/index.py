"""Make the index of a segment: one row per sequence, with keys, offsets and means of the decoded scores.

The means are those of decoded scores, so that writing decoded scores gives the same bytes again.
Array suffixes: see `pipeline.core.types`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.types import Rollout, Scores
from pipeline.store.keys import key_of, score_keys
from pipeline.store.ragged import offsets, owners, reduced, spread
from schemas.segment import INDEX


def index_table(
    rollouts: Sequence[Rollout],
    stored_counts: Mapping[str, NDArray[Any]],
    decoded: Scores,
    positions_B: NDArray[Any],
    scorer: str,
) -> pa.Table:
    """Return the index of a segment, one row per sequence.

    Args:
        rollouts: The sequences, in order.
        stored_counts: The stored entries of each position [N], by group ("head", "draw", "union").
        decoded: The scores of all positions, decoded.
        positions_B: The number of positions of each sequence.
        scorer: The fingerprint of the scorer.
    """
    start_B = np.cumsum(positions_B) - positions_B
    sampled_N = np.array([token for rollout in rollouts for token in rollout.scored_ids], dtype=np.int64)
    keys = [key_of(rollout) for rollout in rollouts]
    columns = {
        "score_key": score_keys(scorer, keys),
        "sequence_key": [sequence for sequence, _ in keys],
        "support_key": [support for _, support in keys],
        "scorer": [scorer] * len(rollouts),
        **{name: [getattr(rollout, name) for rollout in rollouts] for name in ("rollout_id", "prompt_id", "source")},
        "author": [rollout.policy for rollout in rollouts],  # the format keeps older names
        "ended": [rollout.finished for rollout in rollouts],
        "position_offset": start_B,
        **{f"{group}_offset": offsets(counts_N)[start_B] for group, counts_N in stored_counts.items()},
        "positions": positions_B,
        "mean_entropy": sequence_means(decoded.stats.entropy_NH[:, 0], positions_B),
        "mean_tail": sequence_means(decoded.stats.tail_NH[:, 0], positions_B),
        "teacher_nll": sequence_means(-decoded.stats.token_logp_N, positions_B),
        "top1_agreement": sequence_means(_agrees(decoded, sampled_N), positions_B),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in INDEX]
    return pa.Table.from_arrays(arrays, schema=INDEX)


def sequence_means(values_N: NDArray[Any], positions_B: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of each sequence, 0 without positions; sums are float64, so equal values give that value."""
    sum_B = np.bincount(owners(positions_B), weights=values_N, minlength=len(positions_B))
    mean_B: NDArray[np.float64] = sum_B / np.maximum(positions_B, 1)
    return mean_B


def _agrees(scores: Scores, sampled_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where no top token is likelier than the sampled one, as far as the codec distinguishes them."""
    top = scores.top
    best_E = spread(reduced(np.maximum, top.logp, top.counts), top.counts)
    sampled_E = spread(sampled_N, top.counts)
    return reduced(np.logical_or, (top.ids == sampled_E) & (top.logp == best_E), top.counts)
