"""The interface of a codec, and what all codecs share: stored names, counts, gaps between ranks, statistics.

The codecs are the only modules that translate between the stored names of `schemas.segment` and the fields of `Scores`.
Array suffixes: see `pipeline.core.types`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Floats, Ints, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.ragged import owners, starts

Arrays = dict[str, NDArray[Any]]
# Groups of entries: the name in `schemas.segment`, and the field of `Scores`.
STORED_NAMES = {"head": "top", "draw": "tail_samples", "union": "student"}

SMALL_P = 1e-3  # probabilities above it have the smaller error of log(p)
ENTROPY_LEVELS = np.float32(32)  # steps of the square root of an entropy per unit
_TAIL_MEAN_STEP = np.float32(0.25)  # nats
LOWEST_TAIL_MEAN = -63.5  # nats: a lower tail mean is decoded as this value


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBounds:
    """The largest errors of decoding. They do not hold for probabilities below `floor_p`."""

    sqrt_p: float  # absolute, of the square root of any probability or mass
    log_p: float  # nats, for p >= small_p
    log_p_small: float  # nats, for floor_p <= p < small_p
    small_p: float  # at most SMALL_P
    floor_p: float  # smaller probabilities are decoded as this one, except a mass of exactly 0
    sqrt_entropy: float = 0.5 / 32 + 1e-6  # absolute, of the square root of an entropy in nats
    tail_g: float = 0.125 + 1e-5  # nats, of the tail mean down to -63.5
    draws_estimated: bool = False  # true: log-probs of tail samples are estimates, for which no bound holds


class Codec(Protocol):
    """A way to pack scores into small arrays: a frozen dataclass whose fields are its configuration.

    The arrays are described in `schemas.segment.PAYLOAD`.
    """

    name: ClassVar[str]

    @property
    def bounds(self) -> ErrorBounds:
        """The guaranteed accuracy, which the manifest contains."""

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Return the packed scores.

        The arrays `head_n`, `draw_n` and `union_n` count the entries that are stored; a codec may decode another
        number of entries.

        Args:
            scores: Any number of whole positions.
            rank_of_token: The frequency rank of each token id [V].

        Raises:
            StoreError: A position has more entries than a count can hold.
        """

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any]) -> Scores:
        """Return the scores of any window of whole positions; `token_of_rank` [V] is the inverse of `rank_of_token`."""


def encode_counts(counts_N: Ints, group: str) -> NDArray[Any]:
    """Return counts as one byte each for tail samples, and as two bytes for the other groups.

    Raises:
        StoreError: A count is too large.
    """
    dtype = np.uint8 if group == "draw" else np.uint16
    most, limit = int(counts_N.max(initial=0)), int(np.iinfo(dtype).max)
    if most > limit:
        raise StoreError(
            f"{group} entries",
            expected=f"at most {limit} at a position",
            got=most,
            remedy="lower scoring.truncation.max_entries or rollout.sampling.record_max",
        )
    return counts_N.astype(dtype)


def id_dtype(vocab: int) -> type[np.unsignedinteger[Any]]:
    """Return the dtype of token ids, ranks and their gaps."""
    return np.uint16 if vocab <= 1 << 16 else np.uint32


def places(entries: Entries, rank_of_token: NDArray[Any]) -> NDArray[np.int64]:
    """Return position * V + rank of each entry [E]: the sort key of entries by position, then by rank."""
    vocab, ids = len(rank_of_token), entries.ids
    assert int(entries.counts.sum()) == len(ids), "counts and entries differ"
    assert not len(ids) or (ids.min() >= 0 and ids.max() < vocab), "a token id outside the vocabulary"
    place: NDArray[np.int64] = owners(entries.counts) * vocab + rank_of_token[ids]
    return place


def to_gaps(place: NDArray[np.int64], counts_N: Ints, vocab: int, *, distinct: bool) -> NDArray[Any]:
    """Return the gaps between each position's ranks, from ascending places; the gaps less one if ranks are `distinct`.

    The first gap of a position is its first rank.
    """
    gaps = np.diff(place, prepend=0)
    assert not distinct or (gaps[1:] > 0).all(), "a token twice at a position"
    gaps -= distinct
    first = starts(counts_N)[counts_N > 0]
    gaps[first] = place[first] % vocab
    return gaps.astype(id_dtype(vocab))


def from_gaps(gaps: NDArray[Any], counts_N: Ints, token_of_rank: NDArray[Any], *, distinct: bool) -> Ints:
    """Return the token ids [E], whose ranks are a running sum of gaps that begins anew at every position."""
    if not len(gaps):
        return np.zeros(0, np.int32)
    counts64_N = counts_N.astype(np.int64)  # once, because `repeat` and `take` would each convert the counts
    starts_N = np.cumsum(counts64_N) - counts64_N
    # Sum over all positions, then subtract the sum before each position. Adding 1 to a first gap may overflow;
    # the subtraction removes it.
    ranks = np.cumsum(gaps + gaps.dtype.type(distinct), dtype=np.int64)
    before_N = ranks.take(starts_N, mode="clip")  # clip: positions at the end may have no entries
    before_N -= gaps.take(starts_N, mode="clip")
    ranks -= np.repeat(before_N, counts64_N)
    assert ranks.max() < len(token_of_rank), "a rank outside the vocabulary"
    return token_of_rank.astype(np.int32, copy=False).take(
        ranks, mode="clip"
    )  # clip takes half as long as checking each index


def encode_positions(scores: Scores) -> Arrays:
    """Return the arrays that every codec packs in the same way, see `schemas.segment`. `lse` is absent when H is 1."""
    assert not np.isnan(scores.stats.entropy_NH).any(), "an entropy is NaN"
    root_NH = np.sqrt(np.maximum(scores.stats.entropy_NH, 0))  # rounding turns an entropy of 0 into -1e-8
    arrays: Arrays = {
        "entropy": np.minimum(np.rint(root_NH * ENTROPY_LEVELS), 255).astype(np.uint8),
        "realised_only": scores.stats.stored_only_because_sampled_N.astype(np.uint8),
        "tail_g": _encode_tail_mean(scores.stats.tail_mean_N),
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
        "tail_mean_N": np.where(
            arrays["tail_g"] > 0, (1 - arrays["tail_g"].astype(np.float32)) * _TAIL_MEAN_STEP, np.nan
        ),
        "lse_NH": np.concatenate([lse_N1, arrays["lse"]], axis=1) if "lse" in arrays else lse_N1,
    }


def _encode_tail_mean(mean_N: Floats) -> NDArray[np.uint8]:
    code_N = 1 + np.rint(np.minimum(-mean_N, 254 * _TAIL_MEAN_STEP) / _TAIL_MEAN_STEP)
    return np.where(np.isnan(mean_N), 0, np.maximum(code_N, 1)).astype(np.uint8)
