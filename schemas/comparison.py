"""work/evaluations/STUDENT/CHECKPOINT.parquet: student and teacher token by token, for people to look at."""

from typing import Any

import pyarrow as pa

_FIELDS: list[Any] = [
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("position", pa.int32(), nullable=False),  # of the completion; 0 is its first token
    pa.field("token", pa.string(), nullable=False),  # what the student sampled, as text
    pa.field("forward_kl", pa.float32(), nullable=False),  # nats, of the distributions that this token comes from
    pa.field("reverse_kl", pa.float32(), nullable=False),
    pa.field("teacher_tokens", pa.list_(pa.string()), nullable=False),  # the likeliest, best first
    pa.field("teacher_p", pa.list_(pa.float32()), nullable=False),
    pa.field("student_tokens", pa.list_(pa.string()), nullable=False),
    pa.field("student_p", pa.list_(pa.float32()), nullable=False),
]
COMPARISON = pa.schema(_FIELDS, metadata={"schema": "stillroom.comparison/1"})
