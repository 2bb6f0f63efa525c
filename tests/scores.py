"""Scores for tests: of top tokens alone, changed in a field, or from a source that is no segment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.types import Entries, Scores
from pipeline.store.codecs import CODECS, config_of
from pipeline.store.ragged import join_scores
from pipeline.store.windows import Stretch
from schemas.manifest import SegmentHeader


def top_only(ids: Sequence[int], logp: Any, counts: Any, *, tail: float, token_logp: Any) -> Scores:
    """Return scores of top tokens alone at one temperature; `logp` and `token_logp` may be one number for all."""
    counts = np.asarray(counts, np.int32)
    n, logp = len(counts), np.broadcast_to(np.float32(logp), len(ids)).copy()
    return Scores.of_top(
        Entries(ids=np.array(ids, np.int32), logp=logp, counts=counts),
        tail_NH=np.full((n, 1), tail, np.float32),
        entropy_NH=np.ones((n, 1), np.float32),
        token_logp_N=np.broadcast_to(np.float32(token_logp), n).copy(),
    )


def entries(rows: Sequence[Sequence[int]], logp: Any) -> Entries:
    """Return the tokens of each position with log-probs; `logp` may be one number for all."""
    ids = np.array([token for row in rows for token in row], np.int32)
    counts = np.array([len(row) for row in rows], np.int32)
    return Entries(ids=ids, logp=np.broadcast_to(np.float32(logp), len(ids)).copy(), counts=counts)


def with_stats(scores: Scores, **changes: Any) -> Scores:
    """Return the scores with other values in fields of `PositionStats`."""
    return replace(scores, stats=replace(scores.stats, **changes))


def arrays_of(scores: Scores) -> dict[str, Any]:
    """Return every array of the scores by its name, such as `top.ids`."""
    parts = {name: getattr(scores, name) for name in Scores.__slots__}
    return {f"{name}.{field}": getattr(part, field) for name, part in parts.items() for field in part.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class InMemory:
    """A source of windows that holds the scores of each sequence, exact as a codec's are not."""

    scores: Sequence[Scores]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """The scores of rows [start, stop), two sequences a stretch."""
        results = []
        for first in range(start, stop, 2):
            parts = self.scores[first : min(first + 2, stop)]
            whole = join_scores(parts, parts[0].stats.tail_NH.shape[1])
            results.append(Stretch.of(first, whole, np.array([len(part) for part in parts])))
        return results


def header(vocab: int, **changes: Any) -> SegmentHeader:
    """Return the header of a segment at temperature 1; `changes` sets other fields."""
    codec = changes.get("codec", "sqrt8")
    fields = {"scorer": "scorer", "teacher": "teacher", "tokenizer": "tokenizer", "template": "", "scoring": {}}
    fields |= {"engine": "transformers", "dtype": "torch.float32", "temperatures": (1.0,)}
    fields |= {"codec": codec, "codec_config": config_of(CODECS[codec])}
    return SegmentHeader(vocab_size=vocab, **(fields | changes))
