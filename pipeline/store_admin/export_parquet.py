"""Export a segment as one plain Parquet file, which can be read without ranks and codec.

* The file contains what `Segment.read` decodes, in float32, and is written whole or not at all.
* Cost: about 8 bytes per entry before Parquet's compression. A window of sequences is in memory at a time.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.atomic import replacing
from pipeline.store.ragged import join_scores, offsets
from pipeline.store.segment_reader import Segment
from pipeline.store_admin.parquet_layout import PLAIN
from schemas.segment import TOKENS

_WINDOW = 128  # sequences per row group


def export_segment(path: Path, out: Path) -> Path:
    """Write <out>/<segment id>.parquet, and return its path.

    Raises:
        StoreError: The segment is damaged.
    """
    segment = Segment.open(path)
    target = out / f"{segment.manifest.segment_id}.parquet"
    with replacing(target) as temporary, pq.ParquetWriter(temporary, PLAIN, compression="zstd") as writer:
        for start in range(0, len(segment), _WINDOW):
            writer.write_table(_table(segment, start, min(start + _WINDOW, len(segment))))
    return target


def _table(segment: Segment, start: int, stop: int) -> pa.Table:
    """Return the rows [start, stop) of a segment in the schema PLAIN."""
    scores = join_scores(segment.read(start, stop), len(segment.manifest.temperatures))
    rows = segment.index.slice(start, stop - start)
    position_ends, entry_ends = (
        pa.array(offsets(counts), pa.int32()) for counts in (rows["positions"].to_numpy(), scores.top.counts)
    )
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


def _nested(outer: Any, inner: Any, values: NDArray[Any]) -> Any:
    return pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, pa.array(values)))
