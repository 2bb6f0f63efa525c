"""Scores for tests that ask for a head and nothing else, and a source of scores that is no segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.types import Scores
from pipeline.store.codecs import CODECS, config_of
from pipeline.store.ragged import join_scores
from pipeline.store.records import SegmentHeader
from pipeline.store.stretch import Stretch


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
        entropy_NH=np.ones((n, 1), np.float32),
        realised_only_N=np.zeros(n, np.bool_),
        tail_g_N=np.full(n, np.nan, np.float32),
        draw_ids=none,
        draw_logp=none.astype(np.float32),
        draw_n=np.zeros(n, np.int32),
        union_ids=none,
        union_logp=none.astype(np.float32),
        union_n=np.zeros(n, np.int32),
        union_tail_NH=np.full((n, 1), tail, np.float32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemory:
    """A source of windows that holds the scores of each sequence, exact as a codec's are not."""

    scores: Sequence[Scores]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """The scores of rows [start, stop), two sequences a stretch."""
        found = []
        for first in range(start, stop, 2):
            parts = self.scores[first : min(first + 2, stop)]
            whole = join_scores(parts, parts[0].tail_NH.shape[1])
            found.append(Stretch.of(first, whole, np.array([len(one.head_n) for one in parts])))
        return found


def header(vocab: int, **changes: Any) -> SegmentHeader:
    """The header of a segment by nobody in particular, at temperature 1."""
    codec = changes.get("codec", "sqrt8")
    fields = {"scorer": "scorer", "teacher": "teacher", "tokenizer": "tokenizer", "template": "", "scoring": {}}
    fields |= {"engine": "transformers", "dtype": "torch.float32", "temperatures": (1.0,)}
    fields |= {"codec": codec, "codec_config": config_of(CODECS[codec])}
    return SegmentHeader(vocab_size=vocab, **(fields | changes))
