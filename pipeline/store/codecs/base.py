"""What a codec promises, and what the codecs have in common: counts, rank gaps, half precision.

Array suffixes: see `pipeline.core.types`; V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Floats, Ints, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.ragged import owners, starts

Arrays = dict[str, NDArray[Any]]
STORED_NAMES = {"head": "top", "draw": "tail_samples", "union": "student"}
"""Groups of entries: the name in `schemas.segment`, and the field of `Scores`."""

SMALL_P = 1e-3  # from here on a codec promises its better accuracy of log(p)
ENTROPY_LEVELS = np.float32(32)  # of the root of an entropy, in each unit
_G_STEP = np.float32(0.25)  # nats
MOST_G = 63.5  # nats: -G beyond comes back as this
SQRT_ENTROPY_ERROR = 0.5 / 32 + 1e-6
TAIL_G_ERROR = 0.125 + 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBounds:
    """The most that decoding may differ from what was encoded. Nothing is promised below `floor_p`."""

    sqrt_p: float  # absolute, of the root of any probability or mass
    log_p: float  # nats, for p >= small_p
    log_p_small: float  # nats, for floor_p <= p < small_p
    small_p: float  # at most SMALL_P
    floor_p: float  # smaller probabilities come back as this one, except a mass of exactly 0
    sqrt_entropy: float  # absolute, of the root of an entropy in nats
    tail_g: float  # nats, of G down to -63.5
    draws_estimated: bool  # true: draws come back with an estimate of their log-prob, for which nothing is promised


class Codec(Protocol):
    """A frozen dataclass whose fields are its configuration. Arrays are those of `schemas.segment.PAYLOAD`."""

    name: ClassVar[str]

    @property
    def bounds(self) -> ErrorBounds:
        """The promised accuracy, written into the manifest."""

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Pack scores; `rank_of_token` [V] gives each token id its frequency rank.

        `head_n`, `draw_n` and `union_n` count what is stored, which need not be what comes back.
        """

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any]) -> Scores:
        """The scores of any window of whole positions."""


def encode_counts(n_N: Ints, group: str) -> NDArray[Any]:
    """One byte for draws and two for entries; a StoreError where they do not suffice."""
    dtype = np.uint8 if group == "draw" else np.uint16
    most, limit = int(n_N.max(initial=0)), int(np.iinfo(dtype).max)
    if most > limit:
        raise StoreError(
            f"{group} entries",
            expected=f"at most {limit} at a position",
            got=most,
            remedy="lower scoring.truncation.max_entries or rollout.sampling.record_max",
        )
    return n_N.astype(dtype)


def id_dtype(vocab: int) -> type[np.unsignedinteger[Any]]:
    """Of token ids, ranks and their gaps."""
    return np.uint16 if vocab <= 1 << 16 else np.uint32


def places(entries: Entries, rank_of_token: NDArray[Any]) -> NDArray[np.int64]:
    """position * V + rank of each entry: ascending places are positions in order, and ranks within each."""
    vocab, ids = len(rank_of_token), entries.ids
    assert int(entries.counts.sum()) == len(ids), "counts and entries differ"
    assert not len(ids) or (ids.min() >= 0 and ids.max() < vocab), "a token id outside the vocabulary"
    place: NDArray[np.int64] = owners(entries.counts) * vocab + rank_of_token[ids]
    return place


def to_gaps(place: NDArray[np.int64], n_N: Ints, vocab: int, *, distinct: bool) -> NDArray[Any]:
    """Gaps of each position's ranks, from ascending places; less one where ranks are `distinct`."""
    gaps = np.diff(place, prepend=0)
    assert not distinct or (gaps[1:] > 0).all(), "a token twice at a position"
    gaps -= distinct
    first = starts(n_N)[n_N > 0]
    gaps[first] = place[first] % vocab
    return gaps.astype(id_dtype(vocab))


def from_gaps(gaps: NDArray[Any], n_N: Ints, token_of_rank: NDArray[Any], *, distinct: bool) -> Ints:
    """Token ids, whose ranks are a running sum that begins anew at every position."""
    if not len(gaps):
        return np.zeros(0, np.int32)
    counts_N = n_N.astype(np.int64)  # what `repeat` and `take` would make of them each time
    starts_N = np.cumsum(counts_N) - counts_N
    # the sum over all positions; a first gap may run over by the 1, which goes with the sum before it
    ranks = np.cumsum(gaps + gaps.dtype.type(distinct), dtype=np.int64)
    before_N = ranks.take(starts_N, mode="clip")  # clip: positions without entries may lie at the end
    before_N -= gaps.take(starts_N, mode="clip")
    ranks -= np.repeat(before_N, counts_N)
    assert ranks.max() < len(token_of_rank), "a rank outside the vocabulary"
    return token_of_rank.astype(np.int32, copy=False).take(ranks, mode="clip")  # half the time of checking each


def encode_positions(scores: Scores) -> Arrays:
    """What every codec packs alike: see `schemas.segment`. `lse` is absent when H is 1."""
    assert not np.isnan(scores.stats.entropy_NH).any(), "an entropy is NaN"
    root_NH = np.sqrt(np.maximum(scores.stats.entropy_NH, 0))  # rounding leaves -1e-8 of a certain teacher
    arrays: Arrays = {
        "entropy": np.minimum(np.rint(root_NH * ENTROPY_LEVELS), 255).astype(np.uint8),
        "realised_only": scores.stats.stored_only_because_sampled_N.astype(np.uint8),
        "tail_g": _encode_g(scores.stats.tail_mean_N),
    }
    if scores.stats.lse_NH.shape[1] > 1:
        arrays["lse"] = scores.stats.lse_NH[:, 1:].astype(np.float32)
    return arrays


def decode_positions(arrays: Arrays) -> Arrays:
    """Return fields of `PositionStats`: the inverse of `encode_positions`."""
    lse_N1 = np.zeros((len(arrays["tail_g"]), 1), dtype=np.float32)
    return {
        "entropy_NH": np.square(arrays["entropy"].astype(np.float32) / ENTROPY_LEVELS),
        "stored_only_because_sampled_N": arrays["realised_only"].astype(np.bool_),
        "tail_mean_N": np.where(arrays["tail_g"] > 0, (1 - arrays["tail_g"].astype(np.float32)) * _G_STEP, np.nan),
        "lse_NH": np.concatenate([lse_N1, arrays["lse"]], axis=1) if "lse" in arrays else lse_N1,
    }


def _encode_g(g_N: Floats) -> NDArray[np.uint8]:
    code_N = 1 + np.rint(np.minimum(-g_N, 254 * _G_STEP) / _G_STEP)
    return np.where(np.isnan(g_N), 0, np.maximum(code_N, 1)).astype(np.uint8)
