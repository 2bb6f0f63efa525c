"""Scores as plain Parquet, one row a sequence: what `stillroom store export` writes, and what `import` reads.

PLAIN: row t of the last four columns is the teacher's distribution of completion token t. `head_logp` are natural
log-probs at temperature 1 of the tokens in `head_ids`, `tail` is the mass outside them, `token_logp` the log-prob of
the completion token. Draws, union entries and other temperatures stay in the segment.

Raw top-k, as DistillKit keeps it (https://github.com/arcee-ai/DistillKit, `token_ids` and `top_values` of
LogprobCompressor.decompress_to_sparse): `input_ids` [L] is prompt and completion in one, and row i of `token_ids`
and `top_values` is the distribution of token i + 1, so there are L - 1 rows, or L where the last one says what would
follow. Entries of -inf are padding. `labels` [L], where there is one, is negative at the prompt's tokens.
"""

import pyarrow as pa

PLAIN = pa.schema(
    [
        pa.field("sequence_key", pa.string(), nullable=False),
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("head_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("head_logp", pa.list_(pa.list_(pa.float32())), nullable=False),
        pa.field("tail", pa.list_(pa.float32()), nullable=False),
        pa.field("token_logp", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={"schema": "stillroom.plain/1"},
)

RAW_TOPK = ("input_ids", "token_ids", "top_values")
PACKED_TOPK = ("compressed_logprobs", "packed_indices")  # DistillKit's bit-packed forms, of which either may be there
