"""Predict the codes of tail and entropy from the codes of the top tokens, so that only the differences are stored.

* All arithmetic is on integers, so that every reader predicts the same codes.
* Gain: tail and entropy take 0.72 bytes per position instead of 1.63 (SmolLM2 on GSM8K).
* Cost of decoding: 4 nanoseconds per entry and 40 nanoseconds per position.

Array suffixes: see `pipeline.core.types`; here C is the 256 codes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Ints
from pipeline.store.codecs.base import ENTROPY_LEVELS
from pipeline.store.ragged import reduced

_UNIT = 1 << 24  # a probability of 1
_BIN = 12  # bits that are dropped before the look-up in a table
_NATS = 1 << 14  # steps of an entropy per nat
_TAIL_NATS = 7.5  # entropy of the tokens in a tail, assumed to be the same at every position


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The tables for one configuration of the codec."""

    sums_C: NDArray[np.int64]  # one entry's probability in units, plus 2^32 times its -p log p in steps
    tail_of_rest: NDArray[np.uint8]  # code of the remaining mass, by the mass in bins
    entropy_of_tail_C: NDArray[np.int64]  # -t log t + 7.5 t of a tail's mass t, in steps
    entropy_code: NDArray[np.uint8]  # code of an entropy, by the entropy in steps without its lowest 4 bits

    @classmethod
    def of(cls, logp_C: NDArray[np.float64], edges: NDArray[np.float64]) -> "Expectation":
        """Return the tables for the codes' log-probs, -inf first, and the edges between codes 1 to 255."""
        p_C = np.exp(logp_C)
        plogp_C = p_C * np.maximum(logp_C, -1e9)
        with np.errstate(divide="ignore"):
            rest = np.log(np.arange((_UNIT >> _BIN) + 1) / (_UNIT >> _BIN))
        nats = np.arange(20 * _NATS >> 4) / (_NATS >> 4)
        return cls(
            sums_C=np.rint(p_C * _UNIT).astype(np.int64) + (np.rint(-plogp_C * _NATS).astype(np.int64) << 32),
            tail_of_rest=(np.searchsorted(edges, rest) + 1).astype(np.uint8),
            entropy_of_tail_C=np.rint((_TAIL_NATS * p_C - plogp_C) * _NATS).astype(np.int64),
            entropy_code=np.minimum(np.rint(np.sqrt(nats) * ENTROPY_LEVELS), 255).astype(np.uint8),
        )

    def sums(self, codes: NDArray[np.uint8], counts_N: Ints) -> NDArray[np.int64]:
        """Return the sums of `sums_C` over the top tokens of each position [N]."""
        return reduced(np.add, self.sums_C[codes], counts_N)

    def tail(self, sums_N: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the code [N] of the mass outside the top tokens."""
        rest_N = np.maximum(_UNIT - (sums_N & 0xFFFFFFFF), 0)
        code_N: NDArray[np.uint8] = self.tail_of_rest[rest_N >> _BIN]
        return code_N

    def entropy(self, sums_N: NDArray[np.int64], tail_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the code [N] of the entropy of top tokens and tail."""
        steps_N = (sums_N >> 32) + self.entropy_of_tail_C[tail_N]
        code_N: NDArray[np.uint8] = self.entropy_code[np.minimum(steps_N >> 4, len(self.entropy_code) - 1)]
        return code_N


def less_first(code_NH: NDArray[np.uint8], expected_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return codes whose first column is the difference to the expected code, modulo 256."""
    difference_NH = code_NH.copy()
    difference_NH[:, 0] -= expected_N
    return difference_NH


def plus_first(difference_NH: NDArray[np.uint8], expected_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes from which `less_first` made the differences."""
    code_NH = difference_NH.copy()
    code_NH[:, 0] += expected_N
    return code_NH
