"""The layouts of scores as plain Parquet, one row per sequence: `stillroom store export` writes the first, PLAIN.

PLAIN: row t of the last four columns is the teacher's distribution of completion token t. `head_ids` are the top tokens
and `head_logp` their natural log-probs at temperature 1, `tail` is the mass outside them, and `token_logp` the log-prob
of the completion token. Tail samples, student-support tokens and other temperatures are not exported.

Raw top-k, as DistillKit writes it (https://github.com/arcee-ai/DistillKit, `token_ids` and `top_values` of
LogprobCompressor.decompress_to_sparse): `input_ids` [L] is prompt and completion in one, and row i of `token_ids`
and `top_values` is the distribution of token i + 1. So there are L - 1 rows, or L if the last one is the distribution
after the end. Entries of -inf are padding. `labels` [L], if there is such a column, is negative at the prompt's tokens.
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
PACKED_TOPK = ("compressed_logprobs", "packed_indices")  # columns of DistillKit's bit-packed forms, which are refused
