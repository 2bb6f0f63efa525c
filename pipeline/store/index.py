"""The index of a segment, one row per sequence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.types import Rollout, Scores
from pipeline.store.keys import score_keys, sequence_key, support_key
from pipeline.store.ragged import offsets, owners
from schemas.segment import INDEX

_COPIED = {
    "rollout_id": "rollout_id",
    "prompt_id": "prompt_id",
    "source": "source",
    "author": "policy",
    "ended": "finished",
}
"""Columns of the index, whose format keeps older names, and the field of `Rollout` that each copies."""


def index_table(
    rollouts: Sequence[Rollout],
    stored_n: Mapping[str, NDArray[Any]],
    decoded: Scores,
    positions_B: NDArray[Any],
    scorer: str,
) -> pa.Table:
    """The index of a segment, one row a sequence.

    `stored_n` [N] counts the stored entries of each group, `decoded` holds all positions, `positions_B` how many are
    whose.
    """
    start_B = np.cumsum(positions_B) - positions_B
    realised_N = np.array([token for one in rollouts for token in one.completion_ids], dtype=np.int64)
    keys = [(sequence_key(one), support_key(one)) for one in rollouts]
    columns = {
        "score_key": score_keys(scorer, keys),
        "sequence_key": [sequence for sequence, _ in keys],
        "support_key": [support for _, support in keys],
        "scorer": [scorer] * len(rollouts),
        **{column: [getattr(rollout, field) for rollout in rollouts] for column, field in _COPIED.items()},
        "position_offset": start_B,
        **{f"{group}_offset": offsets(n_N)[start_B] for group, n_N in stored_n.items()},
        "positions": positions_B,
        "mean_entropy": sequence_means(decoded.stats.entropy_NH[:, 0], positions_B),
        "mean_tail": sequence_means(decoded.stats.tail_NH[:, 0], positions_B),
        "teacher_nll": sequence_means(-decoded.stats.token_logp_N, positions_B),
        "top1_agreement": sequence_means(_agrees(decoded, realised_N), positions_B),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in INDEX]
    return pa.Table.from_arrays(arrays, schema=INDEX)


def sequence_means(values_N: NDArray[Any], positions_B: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of each sequence, 0 without positions; summed in float64, so the mean of a constant is that constant."""
    owner_N = np.repeat(np.arange(len(positions_B)), positions_B)
    sum_B = np.bincount(owner_N, weights=values_N, minlength=len(positions_B))
    mean_B: NDArray[np.float64] = sum_B / np.maximum(positions_B, 1)
    return mean_B


def _agrees(scores: Scores, realised_N: NDArray[Any]) -> NDArray[np.bool_]:
    """True where no head token is likelier than the realised one, as far as the codec tells them apart."""
    owner_E = owners(scores.top.counts)
    best_N = np.full(len(scores), -np.inf, dtype=np.float32)
    np.maximum.at(best_N, owner_E, scores.top.logp)
    hit_E = (scores.top.ids == realised_N[owner_E]) & (scores.top.logp == best_N[owner_E])
    agrees_N = np.zeros(len(scores), dtype=np.bool_)
    agrees_N[owner_E[hit_E]] = True
    return agrees_N
