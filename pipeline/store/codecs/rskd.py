"""A codec that stores tail samples as tokens with multiplicities: Random Sampling Knowledge Distillation.

Source: Anshumann et al., ACL 2025. In the paper the teacher is m samples with replacement, and a token that was sampled
c times has the unbiased estimate c / m of its probability. Here the samples come from outside the top tokens, so the
estimate is c / m of the mass outside. Top tokens, student-support tokens and masses are coded as in `Sqrt8`; a
position without top tokens is the paper's own case.

* Guarantee: as in `pipeline.store.codecs`, but the log-prob of a tail sample is decoded as this estimate.
* Cost: 3 bytes per distinct tail sample before compression; `Sqrt8` takes 3 bytes for every tail sample.
"""

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Scores
from pipeline.store.codecs.base import Arrays, ErrorBounds, encode_counts, from_gaps, places, to_gaps
from pipeline.store.codecs.sqrt8 import Sqrt8
from pipeline.store.ragged import owners


class RSKD(Sqrt8):
    """The codec: `Sqrt8` with its configuration for everything but the tail samples."""

    __slots__ = ()
    name: ClassVar[str] = "rskd"

    @property
    def bounds(self) -> ErrorBounds:
        """The bounds of `Sqrt8`; log-probs of tail samples are estimates."""
        return replace(super().bounds, draws_estimated=True)

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Return the packed scores; `draw_n` counts distinct tokens.

        Raises:
            StoreError: A position has more entries than a count can hold.
        """
        encode_counts(scores.tail_samples.counts, "draw")  # a multiplicity has one byte, too
        vocab = len(rank_of_token)
        place, count = np.unique(places(scores.tail_samples, rank_of_token), return_counts=True)
        distinct_N = np.bincount(place // vocab, minlength=len(scores)).astype(np.int32)
        arrays = super().encode(replace(scores, tail_samples=Entries.none(len(scores))), rank_of_token)
        del arrays["draw_p"]
        return arrays | {
            "draw_id": to_gaps(place, distinct_N, vocab, distinct=True),
            "draw_count": count.astype(np.uint8),
            "draw_n": encode_counts(distinct_N, "draw"),
        }

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any]) -> Scores:
        """Return the scores of the positions in `arrays`; each position's entries ascend in rank."""
        none = {"draw_id": arrays["draw_id"][:0], "draw_p": arrays["draw_count"][:0]}
        none["draw_n"] = np.zeros_like(arrays["draw_n"])
        scores = super().decode(arrays | none, token_of_rank)
        distinct_N, count = arrays["draw_n"].astype(np.int32), arrays["draw_count"].astype(np.int32)
        owner = owners(distinct_N)
        samples_N = np.bincount(owner, weights=count, minlength=len(distinct_N)).astype(np.int32)
        ids = from_gaps(arrays["draw_id"], distinct_N, token_of_rank, distinct=True)
        tail_N = np.maximum(
            scores.stats.tail_NH[:, 0], math.exp(-self.floor_nats)
        )  # a sampled token has a probability above 0
        logp = np.log(count / samples_N[owner] * tail_N[owner]).astype(np.float32)
        samples = Entries(ids=np.repeat(ids, count), logp=np.repeat(logp, count), counts=samples_N)
        return replace(scores, tail_samples=samples)
