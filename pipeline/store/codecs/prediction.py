"""What the bytes of a head let expect of its tail and entropy, so that only the difference is stored.

Whole numbers throughout, so that every reader expects the same. Tail and entropy take .72 bytes a position in place of
1.63 (SmolLM2 on GSM8K), for 4 nanoseconds an entry and 40 a position in decoding.
Not taken: leaving the tail out, since 1 less a sum of rounded probabilities doubles the error of reverse KL and may be
negative.

Array suffixes: see `pipeline.core.types`; C the 256 codes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Ints
from pipeline.store.codecs.base import ENTROPY_LEVELS
from pipeline.store.ragged import reduced

_UNIT = 1 << 24  # of a probability
_BIN = 12  # bits that are dropped before a table is asked
_NATS = 1 << 14  # steps of an entropy in a nat
_TAIL_NATS = 7.5  # entropy of what lies in a tail, taken to be the same everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Tables for one configuration of the codec."""

    sums_C: NDArray[np.int64]  # of one entry: probability in units, and its -p log p in steps times 2^32
    tail_of_rest: NDArray[np.uint8]  # by the mass that is left, in bins
    entropy_of_tail_C: NDArray[np.int64]  # -t log t + 7.5 t in steps
    entropy_code: NDArray[np.uint8]  # by the entropy in steps of which 4 bits are dropped

    @classmethod
    def of(cls, logp_C: NDArray[np.float64], edges: NDArray[np.float64]) -> "Expectation":
        """`logp_C` are the codes' log-probs, -inf first, and `edges` lie between codes 1 to 255."""
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

    def sums(self, codes: NDArray[np.uint8], n_N: Ints) -> NDArray[np.int64]:
        """[N] Of the head's entries, as `sums_C` has them."""
        return reduced(np.add, self.sums_C[codes], n_N)

    def tail(self, sums_N: NDArray[np.int64]) -> NDArray[np.uint8]:
        """[N] The code of the mass that the head leaves."""
        rest_N = np.maximum(_UNIT - (sums_N & 0xFFFFFFFF), 0)
        code_N: NDArray[np.uint8] = self.tail_of_rest[rest_N >> _BIN]
        return code_N

    def entropy(self, sums_N: NDArray[np.int64], tail_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[N] The code of the entropy that head and tail would have."""
        steps_N = (sums_N >> 32) + self.entropy_of_tail_C[tail_N]
        code_N: NDArray[np.uint8] = self.entropy_code[np.minimum(steps_N >> 4, len(self.entropy_code) - 1)]
        return code_N


def less_first(code_NH: NDArray[np.uint8], expected_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first column less what is expected of it, modulo 256."""
    difference_NH = code_NH.copy()
    difference_NH[:, 0] -= expected_N
    return difference_NH


def plus_first(difference_NH: NDArray[np.uint8], expected_N: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `less_first`."""
    code_NH = difference_NH.copy()
    code_NH[:, 0] += expected_N
    return code_NH
