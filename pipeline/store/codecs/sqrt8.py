"""The default codec: one byte per probability, gaps between frequency ranks for token ids.

* Guarantee: as in `pipeline.store.codecs`; entries are decoded in ascending frequency rank.
* Cost on disk: 2 bytes per entry, ids and values compressed, and 3 bytes per position.
* Speed: one core encodes 0.3 million and decodes 1.7 million positions per second (synthetic scores with 18 entries per
  position, V = 49,152).

Array suffixes: see `pipeline.core.types`; here C is the 256 codes.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, PositionStats, Scores
from pipeline.store.codecs import base
from pipeline.store.codecs.base import SMALL_P, STORED_NAMES, Arrays, ErrorBounds
from pipeline.store.codecs.prediction import Expectation, less_first, plus_first
from pipeline.store.ragged import reduced


@dataclass(frozen=True, slots=True, kw_only=True)
class Sqrt8:
    """Rank gaps, and probabilities in one byte: uniform in sqrt(p), and in log(p) below 0.001.

    Equal steps of the square root give an equal error in Hellinger distance, which suits the loss. The lowest of these
    steps would be coarse in nats, so the codes that `levels` leaves of 255 are spaced by the logarithm.
    """

    name: ClassVar[str] = "sqrt8"

    levels: int  # Steps of sqrt(p) between 0 and 1, from 32 to 250
    # Probabilities below exp(-floor_nats) are stored as this value; from 10 to 80.
    floor_nats: float

    def __post_init__(self) -> None:
        """Check the configuration; a ValueError names the field that is out of range."""
        if type(self.levels) is not int or not 32 <= self.levels <= 250:
            raise ValueError(f"levels: expected a whole number from 32 to 250, got {self.levels!r}")
        # The floor must be below the lowest level of sqrt(p), which is at most 8.3 nats; else the log branch descends.
        if type(self.floor_nats) is not float or not 10.0 <= self.floor_nats <= 80.0:
            raise ValueError(f"floor_nats: expected a float from 10 to 80, got {self.floor_nats!r}")

    @property
    def bounds(self) -> ErrorBounds:
        """The bounds: half a step of each branch, and the rounding of float32."""
        logp_C, _ = _table(self.levels, self.floor_nats)
        lowest = _lowest_level(self.levels)
        half_log_step = float(logp_C[2] - logp_C[1]) / 2
        small = lowest / self.levels
        in_sqrt = (0.5 / self.levels, small * math.expm1(half_log_step / 2), math.exp(-self.floor_nats / 2))
        return ErrorBounds(
            sqrt_p=max(in_sqrt) + 1e-6,
            log_p=2 * math.log1p(0.5 / lowest) + 1e-5,
            log_p_small=half_log_step + 1e-5,
            small_p=small**2,
            floor_p=math.exp(-self.floor_nats),
        )

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Return three arrays per group, the sampled token's, two masses, and the arrays of `encode_positions`.

        Raises:
            StoreError: A position has more entries than a count can hold.
        """
        arrays, vocab = base.encode_positions(scores), len(rank_of_token)
        for group, field in STORED_NAMES.items():
            entries: Entries = getattr(scores, field)
            place = base.places(entries, rank_of_token)
            order = np.argsort(place, kind="stable")
            arrays[f"{group}_id"] = base.to_gaps(place[order], entries.counts, vocab, distinct=group != "draw")
            arrays[f"{group}_p"] = self._codes(entries.logp[order])
            arrays[f"{group}_n"] = base.encode_counts(entries.counts, group)
        arrays["token_p"] = reduced(np.maximum, arrays["head_p"], scores.top.counts) - self._codes(
            scores.stats.token_logp_N
        )
        tail_NH = self._mass_codes(scores.stats.tail_NH)
        arrays["union_tail"] = tail_NH - self._mass_codes(scores.stats.student_tail_NH)
        expect = _expectation(self.levels, self.floor_nats)
        sums_N = expect.sums(arrays["head_p"], scores.top.counts)
        arrays["entropy"] = less_first(arrays["entropy"], expect.entropy(sums_N, tail_NH[:, 0]))
        arrays["tail"] = less_first(tail_NH, expect.tail(sums_N))
        return arrays

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any]) -> Scores:
        """Return the scores of the positions in `arrays`; each position's entries ascend in rank."""
        table_C, _ = _table(self.levels, self.floor_nats)
        logp_C, mass_C = table_C.astype(np.float32), np.exp(table_C).astype(np.float32)
        entries: dict[str, Entries] = {}
        for group, field in STORED_NAMES.items():
            counts_N = arrays[f"{group}_n"].astype(np.int32)
            ids = base.from_gaps(arrays[f"{group}_id"], counts_N, token_of_rank, distinct=group != "draw")
            entries[field] = Entries(ids=ids, logp=logp_C.take(arrays[f"{group}_p"], mode="clip"), counts=counts_N)
        top_N = entries["top"].counts
        expect = _expectation(self.levels, self.floor_nats)
        sums_N = expect.sums(arrays["head_p"], top_N)
        tail_NH = plus_first(arrays["tail"], expect.tail(sums_N))
        entropy_NH = plus_first(arrays["entropy"], expect.entropy(sums_N, tail_NH[:, 0]))
        stats = PositionStats(
            tail_NH=mass_C[tail_NH],
            student_tail_NH=mass_C[tail_NH - arrays["union_tail"]],
            token_logp_N=logp_C[reduced(np.maximum, arrays["head_p"], top_N) - arrays["token_p"]],
            **base.decode_positions(arrays | {"entropy": entropy_NH}),
        )
        return Scores(**entries, stats=stats)

    def _codes(self, logp: NDArray[Any]) -> NDArray[np.uint8]:
        assert not np.isnan(logp).any(), "a log-prob is NaN"
        _, edges = _table(self.levels, self.floor_nats)
        return (np.searchsorted(edges, logp.astype(np.float64)) + 1).astype(np.uint8)

    def _mass_codes(self, mass: NDArray[Any]) -> NDArray[np.uint8]:
        positive = mass > 0  # rounding leaves -1e-8 where the stored tokens have all mass
        logp = np.log(np.where(positive, mass, 1).astype(np.float64))
        assert not np.isnan(mass).any(), "a mass is NaN"
        return np.where(positive, self._codes(logp), 0).astype(np.uint8)


def _lowest_level(levels: int) -> int:
    return int(levels * math.sqrt(SMALL_P))


@cache
def _expectation(levels: int, floor_nats: float) -> Expectation:
    return Expectation.of(*_table(levels, floor_nats))


@cache
def _table(levels: int, floor_nats: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the log-prob of each code and the edges between codes.

    Returns:
        Log-probs [256], strictly ascending from -inf, and the edges [254] between codes 1 to 255. An edge is midway
        between its neighbours, in sqrt(p) or in log(p) according to the branch.
    """
    lowest = _lowest_level(levels)
    upper = 2 * np.log(np.arange(lowest, levels + 1) / levels)
    lower = np.linspace(-floor_nats, upper[0], 256 - len(upper))[:-1]
    logp_C = np.concatenate([[-np.inf], lower, upper])
    half_levels = np.arange(lowest, levels) + 0.5
    codes = np.concatenate([lower, upper[:1]])
    edges = np.concatenate([(codes[:-1] + codes[1:]) / 2, 2 * np.log(half_levels / levels)])
    return logp_C, edges
