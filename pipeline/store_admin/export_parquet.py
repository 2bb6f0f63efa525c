"""Export a segment as one plain Parquet file, which can be read without ranks and codec.

* The file contains what `Segment.read` decodes, in float32, and is written whole or not at all.
* Cost: about 8 bytes per entry before Parquet's compression. A window of sequences is in memory at a time.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.atomic import replacing
from pipeline.store.ragged import join_scores, offsets
from pipeline.store.segment_reader import Segment
from pipeline.store_admin.parquet_rows import PLAIN
from schemas.segment import COMPLETION_MASK

_WINDOW = 128  # sequences per row group


def export_segment(path: Path, out: Path) -> Path:
    """Write <out>/<segment id>.parquet, and return its path.

    Raises:
        StoreError: The segment is damaged.
    """
    segment = Segment.open(path)
    target = out / f"{segment.manifest.segment_id}.parquet"
    schema = PLAIN.append(COMPLETION_MASK) if COMPLETION_MASK.name in segment.token_ids.column_names else PLAIN
    with replacing(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(segment), _WINDOW):
            writer.write_table(_table(segment, start, min(start + _WINDOW, len(segment)), schema))
    return target


def _table(segment: Segment, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    """Return the rows [start, stop) of a segment in the schema PLAIN, with masks if the segment has masks."""
    scores = join_scores(segment.read(start, stop), len(segment.manifest.temperatures))
    index, tokens = (table.slice(start, stop - start) for table in (segment.index, segment.token_ids))
    by_row, by_position = offsets(index["positions"].to_numpy()), offsets(scores.top.counts)
    columns = {name: table[name] for table in (index, tokens) for name in table.column_names} | {
        "head_ids": _lists(_lists(scores.top.ids, by_position), by_row),
        "head_logp": _lists(_lists(scores.top.logp, by_position), by_row),
        "tail": _lists(scores.stats.tail_NH[:, 0], by_row),
        "token_logp": _lists(scores.stats.token_logp_N, by_row),
    }
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _lists(values: Any, ends: NDArray[np.int64]) -> Any:
    """Return an Arrow array of lists, the first of which is values[ends[0]:ends[1]]."""
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values))
