"""Scores for tests that ask for a head and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.records import Scores


def head_only(ids: Sequence[int], logp: Any, counts: Any, *, tail: float, token_logp: Any) -> Scores:
    """Scores at one temperature, without draws or union; `logp` and `token_logp` may be one number for all."""
    counts = np.asarray(counts, np.int32)
    n, none = len(counts), np.zeros(0, np.int32)
    return Scores(
        head_ids=np.array(ids, np.int32),
        head_logp=np.broadcast_to(np.float32(logp), len(ids)).copy(),
        head_n=counts,
        tail_NH=np.full((n, 1), tail, np.float32),
        lse_NH=np.zeros((n, 1), np.float32),
        token_logp_N=np.broadcast_to(np.float32(token_logp), n).copy(),
        entropy_N=np.ones(n, np.float32),
        draw_ids=none,
        draw_logp=none.astype(np.float32),
        draw_n=np.zeros(n, np.int32),
        union_ids=none,
        union_logp=none.astype(np.float32),
        union_n=np.zeros(n, np.int32),
        union_tail_NH=np.full((n, 1), tail, np.float32),
    )
