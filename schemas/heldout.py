"""Define work/evaluations/prompts/NAME.parquet: what each held-out prompt adds to the metrics of a model."""

from typing import Any

import pyarrow as pa

_PART = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        # The metric is the sum of totals over the sum of weights.
        pa.field("total", pa.float64(), nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)
_FIELDS: list[Any] = [
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),  # the greedy completion
    # A metric that is no mean, such as BLEU, has parts at the first 20 prompts alone, each for a group of prompts.
    pa.field("measures", pa.list_(_PART), nullable=False),
]
HELDOUT = pa.schema(_FIELDS, metadata={"schema": "stillroom.heldout/1"})
