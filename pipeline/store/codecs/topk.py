"""The usual codec elsewhere: plain token ids and log-probs in half precision. For comparison, and for imported data.

* Guarantee: as in `pipeline.store.codecs`; entries are decoded by descending log-prob, equal ones by ascending
  frequency rank, whatever their order was.
* Cost: 4 bytes per entry before compression (6 for V > 65,536), and 9 bytes per position at one temperature.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Floats, PositionStats, Scores
from pipeline.store.codecs import base
from pipeline.store.codecs.base import STORED_NAMES, Arrays, ErrorBounds

_FLOOR_NATS = 64.0
_SMALL_NATS = 8.0
_ROUNDING = 2.0**-11  # relative, of a number in half precision
_FLOAT32 = 1e-6  # masses are decoded to float32


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Plain ids, float16 log-probs and log-masses; no configuration."""

    name: ClassVar[str] = "topk"

    @property
    def bounds(self) -> ErrorBounds:
        """The bounds: a log-prob has a relative error of 2 ** -11, and sqrt(p) its largest error at p = exp(-2)."""
        return ErrorBounds(
            sqrt_p=_ROUNDING / math.e + _FLOAT32,
            log_p=_ROUNDING * _SMALL_NATS + _FLOAT32,
            log_p_small=_ROUNDING * _FLOOR_NATS + _FLOAT32,
            small_p=math.exp(-_SMALL_NATS),
            floor_p=math.exp(-_FLOOR_NATS),
        )

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Return three arrays per group, the sampled token's, two masses, and the arrays of `encode_positions`.

        Raises:
            StoreError: A position has more entries than a count can hold.
        """
        arrays, vocab = base.encode_positions(scores), len(rank_of_token)
        for group, field in STORED_NAMES.items():
            entries: Entries = getattr(scores, field)
            half = _half(entries.logp)
            order = _likeliest_first(base.places(entries, rank_of_token), half, vocab, distinct=group != "draw")
            arrays[f"{group}_token"] = entries.ids[order].astype(base.id_dtype(vocab))
            arrays[f"{group}_logp"] = half[order]
            arrays[f"{group}_n"] = base.encode_counts(entries.counts, group)
        arrays["token_logp"] = _half(scores.stats.token_logp_N)
        arrays["log_tail"] = _half_mass(scores.stats.tail_NH)
        arrays["log_union_tail"] = _half_mass(scores.stats.student_tail_NH)
        return arrays

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any]) -> Scores:  # noqa: ARG002
        """Return the scores of the positions in `arrays`, in the stored order; ranks are not needed."""
        entries = {
            field: Entries(
                ids=arrays[f"{group}_token"].astype(np.int32),
                logp=arrays[f"{group}_logp"].astype(np.float32),
                counts=arrays[f"{group}_n"].astype(np.int32),
            )
            for group, field in STORED_NAMES.items()
        }
        stats = PositionStats(
            tail_NH=_mass(arrays["log_tail"]),
            student_tail_NH=_mass(arrays["log_union_tail"]),
            token_logp_N=arrays["token_logp"].astype(np.float32),
            **base.decode_positions(arrays),
        )
        return Scores(**entries, stats=stats)


def _likeliest_first(
    place: NDArray[np.int64], half: NDArray[np.float16], vocab: int, *, distinct: bool
) -> NDArray[np.int64]:
    """Return the order of entries by descending log-prob: the bits of a negative number ascend as it descends."""
    by_rank = np.argsort(place, kind="stable")
    ranked = place[by_rank]
    assert not distinct or (np.diff(ranked) > 0).all(), "a token twice at a position"
    key = (ranked // vocab) << 16 | half[by_rank].view(np.uint16)
    return by_rank[np.argsort(key, kind="stable")]


def _half(logp: NDArray[Any]) -> NDArray[np.float16]:
    assert not np.isnan(logp).any(), "a log-prob is NaN"
    half: NDArray[np.float16] = np.clip(logp, -_FLOOR_NATS, 0).astype(np.float16)
    return half


def _half_mass(mass: NDArray[Any]) -> NDArray[np.float16]:
    assert not np.isnan(mass).any(), "a mass is NaN"
    positive = mass > 0  # rounding leaves -1e-8 where the stored tokens have all mass
    return np.where(positive, _half(np.log(np.where(positive, mass, 1).astype(np.float64))), np.float16(-np.inf))


def _mass(half: NDArray[np.float16]) -> Floats:
    return np.exp(half.astype(np.float64)).astype(np.float32)
