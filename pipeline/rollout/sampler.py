"""What an engine offers: a sampler that writes completions, a scorer that judges them.

Token ids go in and come out; an engine never sees text. Completion-aligned on both sides: position t of every result
belongs to completion token t.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One completion of T tokens."""

    token_ids: list[int]
    logp: list[float]  # [T] under the distribution that was sampled from
    support_ids: list[list[int]]  # [T] lists
    tail_sample_ids: list[list[int]]  # [T] lists
    tail_offset: list[float]  # [T]
    finished: bool  # the last token is eos


class Sampler(Protocol):
    """Writes completions. Equal (sample id, seed, prompt, model) give equal uniform draws, whatever the batch."""

    fingerprint: str

    def sample(
        self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling | Sequence[Sampling]
    ) -> list[Sampled]:
        """One completion for each prompt of a batch, all drawn alike or each in its way.

        Prompts that repeat may cost once.
        """
