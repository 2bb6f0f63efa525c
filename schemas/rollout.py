"""rollouts.parquet: prompts with completions. One row is one `pipeline.core.types.Rollout`."""

import pyarrow as pa

ROLLOUT = pa.schema(
    [
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # "student", "replay", "dataset", "teacher"
        pa.field("policy", pa.string(), nullable=False),  # model fingerprint, "" for the data set
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("behaviour_logp", pa.list_(pa.float32()), nullable=False),
        pa.field("support_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("tail_sample_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("tail_offset", pa.list_(pa.float32()), nullable=False),
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),  # first of the round it was written for
        pa.field("reward", pa.float64()),  # null where there is none
    ],
    metadata={"schema": "stillroom.rollout/4"},
)
