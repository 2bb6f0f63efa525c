"""Define rollouts.parquet: prompts with completions. A row is a `pipeline.core.types.Rollout`."""

import pyarrow as pa

ROLLOUT = pa.schema(
    [
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # "student", "replay", "dataset", "teacher"
        pa.field("policy", pa.string(), nullable=False),  # fingerprint of the model that sampled; "" for references
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("behaviour_logp", pa.list_(pa.float32()), nullable=False),
        pa.field("support_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("tail_sample_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("tail_offset", pa.list_(pa.float32()), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),  # the first step of the round that it was sampled for
        pa.field("reward", pa.float64()),  # null if there is none
        # One per completion token: false where others wrote it. Empty, null or absent: all tokens are scored.
        pa.field("completion_mask", pa.list_(pa.bool_())),
    ],
    metadata={"schema": "stillroom.rollout/4"},
)
