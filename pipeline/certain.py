"""The data set as a teacher: certain of every token that it wrote, at every temperature.

A head of one token with all the mass, so that forward KL to this teacher is the cross-entropy. It lets supervised
fine-tuning take the same pools, batches and objective as distillation without a model that scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.records import Rollout, Scores
from pipeline.windows import Stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class Certain:
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
