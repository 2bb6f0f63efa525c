"""Define work/evaluations/CHECKPOINT.parquet: student and teacher token by token, for the report."""

from typing import Any

import pyarrow as pa

_FIELDS: list[Any] = [
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("position", pa.int32(), nullable=False),  # of the completion; 0 is its first token
    pa.field("token", pa.string(), nullable=False),  # sampled by the student, as text
    pa.field("forward_kl", pa.float32(), nullable=False),  # nats, between the distributions at this position
    pa.field("reverse_kl", pa.float32(), nullable=False),
    pa.field("teacher_tokens", pa.list_(pa.string()), nullable=False),  # the likeliest tokens first
    pa.field("teacher_p", pa.list_(pa.float32()), nullable=False),
    pa.field("student_tokens", pa.list_(pa.string()), nullable=False),
    pa.field("student_p", pa.list_(pa.float32()), nullable=False),
]
COMPARISON = pa.schema(_FIELDS, metadata={"schema": "stillroom.comparison/1"})
