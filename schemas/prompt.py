"""Define the files of work/prompts: one file of tokenised cases per split.

A row is a `pipeline.core.types.Prompt`.
"""

import pyarrow as pa

PROMPT = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # "train" or "heldout"
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("reference_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("prompt_text", pa.string(), nullable=False),
        pa.field("references", pa.list_(pa.string()), nullable=False),
        # One per prompt token: an earlier assistant turn that references train on. Empty, null or absent: none.
        pa.field("assistant_mask", pa.list_(pa.bool_())),
    ],
    metadata={"schema": "stillroom.prompt/2"},
)
