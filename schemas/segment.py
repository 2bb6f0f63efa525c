"""Define the files of a segment of the teacher store, byte by byte, for readers with and without this package.

```
manifest.json   `schemas.manifest.Manifest`, written last: a directory without it is no segment
index.parquet   INDEX, one row per sequence
tokens.parquet  TOKENS, one row per sequence
ranks.parquet   RANKS, the token id of each rank [V]; may be <store>/ranks/<blake2b>.parquet instead
payload.zarr/   a Zarr v3 group with the arrays of PLANES; every chunk is compressed with zstd and then has a crc32c
```

Names on disk are older than the words of docs/glossary.md. `head` are the top tokens, `union` the student-support
tokens (tokens that the sampling policy found likely and that are no top tokens), `draw` the tail samples, `realised`
the sampled token, `author` the fingerprint of the sampling policy, `ended` finished, and `g` the tail mean.

tokens.parquet has the column `completion_mask` only in segments with a completion of which others wrote tokens: false
at these tokens, which have no position; empty for a sequence without such tokens. All positions, counts and means are
of the other tokens, in their order.

Each array of `payload.zarr` holds the columns that run along one axis, as bytes: uint8 [P, rows], plane by plane, so
that high and low bytes are compressed separately. Its attribute `columns` lists the columns in the order of PAYLOAD,
which has their meanings: [name, dtype, H] or [name, dtype]. A column of numbers of b bytes (little-endian) takes b
planes, the plane of the lowest bytes first. A column with H temperatures takes H times as many, temperature by
temperature.

Axes: N positions of all sequences end to end, E top tokens, U student-support tokens, R tail samples as they are
stored, H temperatures (the first is 1). Sequence b has the positions from `position_offset[b]` up to
`position_offset[b] + positions[b]`. Its entries start at `head_offset[b]`, `draw_offset[b]` and `union_offset[b]`.
Position t has the next `head_n[t]` entries of every array along E, and so on.

Every codec has:
* `lse`: float32, temperatures 2 to H; absent if H is 1.
* log p_h(i) = log p(i) / temperature_h - lse_h.
* `entropy`: a byte c means (c / 32) ** 2 nats, at each temperature.
* `realised_only`: 1 if the sampled token is among the top tokens only because it was sampled, and the sampling policy
  did not record it as likely either; else 0.

Some columns depend on the sampling policy, so another student's scores of the same tokens would differ in them:
`union_id`, `union_p`, `union_n`, `union_tail` and their counterparts in other codecs, `realised_only`, and
* `tail_g`: a byte c > 0 means (1 - c) / 4 nats: an estimate of the mean log-prob, at temperature 1, of the tokens
  that are neither top tokens nor student-support tokens, weighted by the sampling policy's probabilities. c = 0: no
  estimate.

Codec "sqrt8" (`levels`, `floor_nats`):
* `head_id`, `union_id`: the ranks of a position ascend without repetition. The first is stored as it is, each later
  one as rank - previous rank - 1. `draw_id`: ranks ascend and may repeat; each is stored as rank - previous rank.
  token id = ranks.parquet["token_id"][rank].
* `head_p`, `union_p`, `draw_p`, `tail`: a probability as a byte c. With L = `levels` and F = `floor_nats` of the
  codec's configuration, k = floor(L * sqrt(0.001)) and b = 255 - (L - k): c = 0 means 0 (masses only); 0 < c < b
  means exp(-F + (c - 1) * (F + 2 * log(k / L)) / (b - 1)); c >= b means ((k + c - b) / L) ** 2. For L = 128: k = 4
  and b = 131.
* `union_tail`: (code of tail - code of union tail) mod 256, because the two are equal where there are no
  student-support tokens.
* The `tail` and the `entropy` of the first temperature are stored as (code - expected code) mod 256. With M the sum
  of round(2^24 p) over the position's `head_p`, the expected code of the tail is the code of floor(max(2^24 - M, 0) /
  2^12) / 2^12: the nearest in sqrt(p) from b on and in log(p) below, 1 for none. With E the sum of round(-2^14 p log
  p), and f = round(2^14 (7.5 t - t log t)) of the stored tail t, the expected code of the entropy is the code of
  floor((E + f) / 16) / 2^10 nats, below 20.
* `token_p`: (the position's largest byte in `head_p` - code of the sampled token's probability) mod 256, because the
  likeliest token is sampled most often; the largest of no bytes is 0.

Codec "topk" (no configuration):
* `head_token`, `draw_token`, `union_token`: token ids, by descending log-prob within a position, equal ones by
  ascending rank.
* `head_logp`, `draw_logp`, `union_logp`, `token_logp` (of the sampled token): IEEE half precision, nats, -64 to 0.
  `log_tail`, `log_union_tail`: the same for a mass, and -inf for none.

Codec "rskd" (`levels`, `floor_nats`): as "sqrt8", except for the tail samples, which have no `draw_p`.
* `draw_id`: ranks of the distinct tokens among the tail samples, coded as `head_id` is; `draw_n` counts these.
* `draw_count`: how often each of them was sampled, 1 to 255. With m samples at a position, the sum of its counts, a
  token sampled c times has the estimated probability c / m * max(tail at temperature 1, exp(-floor_nats)).
"""

from typing import Any, NamedTuple

import pyarrow as pa

FORMAT = "stillroom.segment/5"

_INDEX_FIELDS: list[Any] = [
    # blake2b of "scorer/sequence_key/support_key", which lookups use.
    pa.field("score_key", pa.binary(16), nullable=False),
    pa.field("sequence_key", pa.string(), nullable=False),  # identity of prompt ids, completion ids and mask
    # Identity of the tokens that the sampling policy recorded: its likely tokens, and its samples from the others.
    pa.field("support_key", pa.string(), nullable=False),
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
    pa.field("mean_tail", pa.float32(), nullable=False),  # mass outside the top tokens at temperature 1
    pa.field("teacher_nll", pa.float32(), nullable=False),  # nats per token
    pa.field("top1_agreement", pa.float32(), nullable=False),  # share of positions whose likeliest token was sampled
    pa.field("ended", pa.bool_(), nullable=False),
]

INDEX = pa.schema(_INDEX_FIELDS, metadata={"schema": "stillroom.segment.index/2"})

TOKENS = pa.schema(
    [pa.field(name, pa.list_(pa.int32()), nullable=False) for name in ("prompt_ids", "completion_ids")],
    metadata={"schema": "stillroom.segment.tokens/2"},
)
COMPLETION_MASK: Any = pa.field("completion_mask", pa.list_(pa.bool_()), nullable=False)

RANKS = pa.schema([pa.field("token_id", pa.int32(), nullable=False)], metadata={"schema": "stillroom.segment.ranks/1"})
# The arrays of payload.zarr by the axis that they run along.
PLANES = {"E": "head", "R": "draw", "U": "union", "N": "position"}


class PayloadArray(NamedTuple):
    """A column of the payload: the numpy dtypes that it may have, its axes, and its meaning."""

    dtypes: tuple[str, ...]
    axes: str
    meaning: str


_ID = ("uint16", "uint32")
# A segment has the columns of its codec, which the docstring of this module names.
PAYLOAD: dict[str, PayloadArray] = {
    "head_id": PayloadArray(_ID, "E", "gaps between the ranks of the top tokens"),
    "head_p": PayloadArray(("uint8",), "E", "their probabilities"),
    "head_n": PayloadArray(("uint16",), "N", "top tokens of each position"),
    "draw_id": PayloadArray(_ID, "R", "gaps between the ranks of the tail samples"),
    "draw_p": PayloadArray(("uint8",), "R", "their probabilities"),
    "draw_n": PayloadArray(("uint8",), "N", "tail samples of each position"),
    "union_id": PayloadArray(_ID, "U", "gaps between the ranks of the student-support tokens"),
    "union_p": PayloadArray(("uint8",), "U", "their probabilities"),
    "union_n": PayloadArray(("uint16",), "N", "student-support tokens of each position"),
    "draw_count": PayloadArray(("uint8",), "R", "how often each of the tokens was sampled"),
    "head_token": PayloadArray(_ID, "E", "ids of the top tokens"),
    "head_logp": PayloadArray(("float16",), "E", "their log-probs"),
    "draw_token": PayloadArray(_ID, "R", "ids of the tail samples"),
    "draw_logp": PayloadArray(("float16",), "R", "their log-probs"),
    "union_token": PayloadArray(_ID, "U", "ids of the student-support tokens"),
    "union_logp": PayloadArray(("float16",), "U", "their log-probs"),
    "log_tail": PayloadArray(("float16",), "NH", "log of the mass outside the top tokens"),
    "log_union_tail": PayloadArray(("float16",), "NH", "log of the mass outside top tokens and student-support tokens"),
    "tail": PayloadArray(("uint8",), "NH", "mass outside the top tokens, as a difference from what they leave"),
    "union_tail": PayloadArray(("uint8",), "NH", "mass outside top and student-support tokens, coded relative to tail"),
    "token_p": PayloadArray(("uint8",), "N", "probability of the sampled token, as a difference from the largest"),
    "token_logp": PayloadArray(("float16",), "N", "log-prob of the sampled token"),
    "realised_only": PayloadArray(("uint8",), "N", "the sampled token is stored only because it was sampled"),
    "tail_g": PayloadArray(("uint8",), "N", "mean log-prob of the tokens outside, weighted by the sampling policy"),
    "entropy": PayloadArray(("uint8",), "NH", "entropy at each temperature"),
    "lse": PayloadArray(("float32",), "NH", "log-sum-exp of each temperature but the first"),
}

INDEXES = "segments/*/index.parquet"
