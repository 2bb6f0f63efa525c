"""The interface of a sampler: token ids in, token ids and what was recorded of them out.

Results are aligned with the completion: entry t of each list belongs to completion token t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.sampling import Sampling
from pipeline.core.types import Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled(Recorded):
    """One sampled completion of T tokens."""

    token_ids: list[int]
    logp: list[float]  # [T] nats, under the distribution that was sampled from
    finished: bool  # the last token is an end token


class Sampler(Protocol):
    """Samples completions.

    Guarantee: the random numbers of a completion depend on its sample id and the seed alone, not on its batch.
    """

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model."""

    def sample(
        self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling | Sequence[Sampling]
    ) -> list[Sampled]:
        """Return one completion for each prompt of a batch.

        Args:
            prompts_ids: Token ids of the prompts; equal prompts may cost as much as one.
            sample_ids: The key of each completion's random numbers.
            sampling: Parameters for the whole batch, or for each completion.

        Raises:
            DataError: When a prompt and a completion do not fit into the model's context.
        """
