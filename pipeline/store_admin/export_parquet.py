"""A segment as one plain Parquet file, for readers that want neither ranks nor codec.

Guarantee: what `Segment.read` decodes, in float32, and a whole file or none. Cost: about 8 bytes an entry before
Parquet's compression; a window of sequences is in memory at a time. Not taken: one file for the whole store, which
could not be written again in part.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.atomic import replacing
from pipeline.store.ragged import join_scores
from pipeline.store.segment_reader import Segment
from pipeline.store_admin.parquet_layout import PLAIN
from schemas.segment import TOKENS

_WINDOW = 128  # sequences in a row group


def export_segment(path: Path, out: Path) -> Path:
    """Write <out>/<segment id>.parquet; returns it."""
    segment = Segment.open(path)
    target = out / f"{segment.manifest.segment_id}.parquet"
    with replacing(target) as temporary, pq.ParquetWriter(temporary, PLAIN, compression="zstd") as writer:
        for start in range(0, len(segment), _WINDOW):
            writer.write_table(_table(segment, start, min(start + _WINDOW, len(segment))))
    return target


def _table(segment: Segment, start: int, stop: int) -> pa.Table:
    """The rows [start, stop) of a segment in the schema PLAIN."""
    scores = join_scores(segment.read(start, stop), len(segment.manifest.temperatures))
    rows = segment.index.slice(start, stop - start)
    position_ends = _ends(rows["positions"].to_numpy())
    entry_ends = _ends(scores.top.counts)
    tokens = list(zip(*(segment.tokens(row) for row in range(start, stop)), strict=True))
    columns = {
        **{name: rows[name].combine_chunks() for name in PLAIN.names if name in rows.column_names},
        **{name: pa.array(ids, pa.list_(pa.int32())) for name, ids in zip(TOKENS.names, tokens, strict=True)},
        "head_ids": _nested(position_ends, entry_ends, scores.top.ids),
        "head_logp": _nested(position_ends, entry_ends, scores.top.logp),
        "tail": pa.ListArray.from_arrays(position_ends, pa.array(scores.stats.tail_NH[:, 0])),
        "token_logp": pa.ListArray.from_arrays(position_ends, pa.array(scores.stats.token_logp_N)),
    }
    return pa.Table.from_arrays([columns[name] for name in PLAIN.names], schema=PLAIN)


def _ends(counts: NDArray[Any]) -> Any:
    return pa.array(np.append(0, np.cumsum(counts)).astype(np.int32))


def _nested(outer: Any, inner: Any, values: NDArray[Any]) -> Any:
    return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, pa.array(values)))
