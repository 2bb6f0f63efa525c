"""One segment of the teacher store: the byte layout of every file, for readers with and without this package.

```
manifest.json   `schemas.manifest.Manifest`, written last: a directory without it is no segment
index.parquet   INDEX, one row a sequence
tokens.parquet  TOKENS, one row a sequence
ranks.parquet   RANKS, the token id of each rank [V]; may live in <store>/ranks/<blake2b>.parquet instead
payload.zarr/   a Zarr v3 group with the arrays of PLANES, zstd and then crc32c on every chunk
```

Each array of `payload.zarr` holds what runs along one axis, as bytes: uint8 [P, rows], plane by plane, so that high and
low bytes are compressed apart. Its attribute `columns` lists what lies in them, in the order of PAYLOAD, which has the
meanings: [name, dtype, H] or [name, dtype]. A column of numbers of b bytes (little-endian) takes b planes, the lowest
byte's first, and H times as many where it has H temperatures, temperature by temperature.

Axes: N positions of all sequences end to end, E head entries, U union entries, R draws as they are stored,
H temperatures (the first is 1). Sequence b owns positions `position_offset[b]` to `position_offset[b] + positions[b]`;
its entries start at `head_offset[b]`, `draw_offset[b]` and `union_offset[b]`. Position t owns the next `head_n[t]`
entries of every array along E, and so on.

With every codec:
* `lse`: float32, temperatures 2 to H; absent when H is 1.
* log p_h(i) = log p(i) / temperature_h - lse_h.
* `entropy`: a byte c means (c / 32) ** 2 nats, at each temperature.
* `realised_only`: 1 where the realised token is a head entry for no other reason than having been realised, and its
  author did not record it as likely either; else 0.

What the author of the rollout has to do with, and another student's scores of the same tokens would not share:
`union_id`, `union_p`, `union_n`, `union_tail` and their like, `realised_only`, and
* `tail_g`: a byte c > 0 means (1 - c) / 4 nats: an estimate of the mean log-prob, at temperature 1, of the tokens
  outside head and union, weighted as the author would draw them. c = 0: there is none.

Codec "sqrt8" (`levels`, `floor_nats`):
* `head_id`, `union_id`: ranks of a position ascend without repetition; the first is stored as it is, each later one
  as rank - previous rank - 1. `draw_id`: ranks ascend and may repeat, stored as rank - previous rank.
  token id = ranks.parquet["token_id"][rank].
* `head_p`, `union_p`, `draw_p`, `tail`: a probability as a byte c. With L = `levels` and F = `floor_nats` of the
  codec's configuration, k = floor(L * sqrt(0.001)) and b = 255 - (L - k): c = 0 means 0 (masses only);
  0 < c < b means exp(-F + (c - 1) * (F + 2 * log(k / L)) / (b - 1)); c >= b means ((k + c - b) / L) ** 2.
  For L = 128: k = 4 and b = 131.
* `union_tail`: (code of tail - code of union tail) mod 256, because the two are equal wherever the union is empty.
* The first temperature's `tail` and `entropy` are stored as (code - expected code) mod 256. With M the sum of
  round(2^24 p) over the position's `head_p`, the tail's expected code is that of floor(max(2^24 - M, 0) / 2^12) / 2^12:
  the nearest in sqrt(p) from b on and in log(p) below, 1 for none. With E the sum of round(-2^14 p log p), and
  f = round(2^14 (7.5 t - t log t)) of the tail t that is stored, the entropy's is that of floor((E + f) / 16) / 2^10
  nats, below 20.
* `token_p`: (the position's largest byte in `head_p` - code of the realised token's probability) mod 256, because the
  likeliest token is the one that most often is realised; the largest of no bytes is 0.

Codec "topk" (no configuration):
* `head_token`, `draw_token`, `union_token`: token ids, by descending log-prob within a position, equal ones by
  ascending rank.
* `head_logp`, `draw_logp`, `union_logp`, `token_logp` (of the realised token): IEEE half precision, nats, -64 to 0.
  `log_tail`, `log_union_tail`: the same of a mass, and -inf for none.

Codec "rskd" (`levels`, `floor_nats`): as "sqrt8", but for the draws, which have no `draw_p`.
* `draw_id`: ranks of the distinct tokens that were drawn, coded as `head_id` is; `draw_n` counts these.
* `draw_count`: how often each was drawn, 1 to 255. With m draws at a position, the sum of its counts, a token drawn c
  times has the estimated probability c / m * max(tail at temperature 1, exp(-floor_nats)).
"""

from typing import Any, NamedTuple

import pyarrow as pa

FORMAT = "stillroom.segment/5"

_INDEX_FIELDS: list[Any] = [
    pa.field("score_key", pa.binary(16), nullable=False),  # blake2b of "scorer/sequence_key/support_key"; found by this
    pa.field("sequence_key", pa.string(), nullable=False),  # identity of prompt ids and completion ids
    pa.field(
        "support_key", pa.string(), nullable=False
    ),  # identity of what the author found likely, and drew from the rest
    pa.field("scorer", pa.string(), nullable=False),  # fingerprint of teacher, scoring and codec
    pa.field("rollout_id", pa.string(), nullable=False),
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("author", pa.string(), nullable=False),
    pa.field("position_offset", pa.int64(), nullable=False),
    pa.field("head_offset", pa.int64(), nullable=False),
    pa.field("draw_offset", pa.int64(), nullable=False),
    pa.field("union_offset", pa.int64(), nullable=False),
    pa.field("positions", pa.int32(), nullable=False),
    # Means over the sequence's positions of what a reader decodes; 0 for a sequence without positions.
    pa.field("mean_entropy", pa.float32(), nullable=False),  # nats, at temperature 1
    pa.field("mean_tail", pa.float32(), nullable=False),  # mass outside the head at temperature 1
    pa.field("teacher_nll", pa.float32(), nullable=False),  # nats a token
    pa.field("top1_agreement", pa.float32(), nullable=False),  # share whose likeliest head token was taken
    pa.field("ended", pa.bool_(), nullable=False),
]

INDEX = pa.schema(_INDEX_FIELDS, metadata={"schema": "stillroom.segment.index/2"})

TOKENS = pa.schema(
    [
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
    ],
    metadata={"schema": "stillroom.segment.tokens/2"},
)

RANKS = pa.schema([pa.field("token_id", pa.int32(), nullable=False)], metadata={"schema": "stillroom.segment.ranks/1"})
# The arrays of payload.zarr, by the axis they run along.
PLANES = {"E": "head", "R": "draw", "U": "union", "N": "position"}


class PayloadArray(NamedTuple):
    """What one column of the payload holds: the numpy dtypes it may have, its axes, its meaning."""

    dtypes: tuple[str, ...]
    axes: str
    meaning: str


_ID = ("uint16", "uint32")
# A segment has the arrays of its codec, named in the docstring above.
PAYLOAD: dict[str, PayloadArray] = {
    "head_id": PayloadArray(_ID, "E", "gaps between the ranks of the head's tokens"),
    "head_p": PayloadArray(("uint8",), "E", "their probabilities"),
    "head_n": PayloadArray(("uint16",), "N", "head entries of each position"),
    "draw_id": PayloadArray(_ID, "R", "gaps between the ranks of the tokens drawn from outside the head"),
    "draw_p": PayloadArray(("uint8",), "R", "their probabilities"),
    "draw_n": PayloadArray(("uint8",), "N", "draws of each position"),
    "union_id": PayloadArray(_ID, "U", "gaps between the ranks of the author's tokens outside the head"),
    "union_p": PayloadArray(("uint8",), "U", "their probabilities"),
    "union_n": PayloadArray(("uint16",), "N", "union entries of each position"),
    "draw_count": PayloadArray(("uint8",), "R", "how often each of the tokens was drawn"),
    "head_token": PayloadArray(_ID, "E", "ids of the head's tokens"),
    "head_logp": PayloadArray(("float16",), "E", "their log-probs"),
    "draw_token": PayloadArray(_ID, "R", "ids of the tokens drawn from outside the head"),
    "draw_logp": PayloadArray(("float16",), "R", "their log-probs"),
    "union_token": PayloadArray(_ID, "U", "ids of the author's tokens outside the head"),
    "union_logp": PayloadArray(("float16",), "U", "their log-probs"),
    "log_tail": PayloadArray(("float16",), "NH", "log of the mass outside the head"),
    "log_union_tail": PayloadArray(("float16",), "NH", "log of the mass outside head and union"),
    "tail": PayloadArray(("uint8",), "NH", "mass outside the head, as a difference from what the head leaves"),
    "union_tail": PayloadArray(("uint8",), "NH", "mass outside head and union, as a difference from tail"),
    "token_p": PayloadArray(("uint8",), "N", "probability of the realised token, as a difference from the largest"),
    "token_logp": PayloadArray(("float16",), "N", "log-prob of the realised token"),
    "realised_only": PayloadArray(("uint8",), "N", "the realised token is an entry for that reason alone"),
    "tail_g": PayloadArray(("uint8",), "N", "mean log-prob of the author's draws from its tail"),
    "entropy": PayloadArray(("uint8",), "NH", "entropy at each temperature"),
    "lse": PayloadArray(("float32",), "NH", "normaliser of each temperature but the first"),
}

INDEXES = "segments/*/index.parquet"
