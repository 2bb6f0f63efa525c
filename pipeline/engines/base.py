"""What an engine offers: a sampler that writes completions, a scorer that judges them.

Token ids go in and come out; an engine never sees text. Completion-aligned on both sides: position t of every result
belongs to completion token t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pipeline.params import AboveZero, Fraction, Positive, Range
from pipeline.records import Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn."""

    max_new_tokens: Positive
    """Tokens after which a completion is cut."""
    temperature: Annotated[float, Range(0)]
    """Of the softmax; 0 is greedy."""
    top_p: Annotated[float, Range(0, 1, above=True)]
    """Nucleus mass; 1 keeps every token, which the unbiased estimators need."""
    support_threshold: Annotated[float, Range(0, 1, above=True)]
    """Tokens that the sampler finds likelier than this are recorded, for the union support."""
    support_max: Annotated[int, Range(0, 255)]
    """At most so many of them a position, the likeliest first; 0 records none."""
    tail_draws: Annotated[int, Range(0, 255)]
    """Draws from all other tokens at each position, recorded beside them: what the teacher says of the student's tail
    (G, for `objective.support: g`) comes from these. 0 records none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportParams:
    """Which of the teacher's V probabilities are kept at each position."""

    threshold: Annotated[float, Range(0, 1)]
    """Teacher tokens likelier than this form the head."""
    max_entries: Positive
    """At most so many of them, the likeliest first."""
    draws_per_tail: Annotated[float, Range(0)]
    """Draws from the tail for a tail of mass 1; a lighter tail gets proportionally fewer. 0 stores none."""
    min_tail: Fraction
    """No draws where the tail is lighter than this."""
    temperatures: tuple[AboveZero, ...]
    """Temperatures at which the loss may be taken, 1 first: the tail at another one cannot be recovered later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One completion of T tokens."""

    token_ids: list[int]
    logp: list[float]  # [T] under the distribution that was sampled from
    support_ids: list[list[int]]  # [T] lists
    tail_ids: list[list[int]]  # [T] lists
    tail_offset: list[float]  # [T]
    ended: bool  # the last token is eos


class Sampler(Protocol):
    """Writes completions. Equal (sample id, seed, prompt, model) give equal uniform draws, whatever the batch."""

    fingerprint: str

    def sample(
        self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling | Sequence[Sampling]
    ) -> list[Sampled]:
        """One completion for each prompt of a batch, all drawn alike or each in its way.

        Prompts that repeat may cost once.
        """


class Scorer(Protocol):
    """Scores completions under the teacher."""

    def score(self, sequences: Sequence["ToScore"], on_tokens: Callable[[int], object]) -> list[Scores]:
        """The teacher's truncated distributions, one `Scores` a sequence, T rows each; `on_tokens` hears progress.

        Sequences of one prompt that follow each other may cost that prompt once.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ToScore:
    """A completion to score, the tokens its author found likely, and its draws from the others; `records.Rollout`."""

    prompt_ids: list[int]
    completion_ids: list[int]
    support_ids: list[list[int]]
    tail_ids: list[list[int]]
    tail_offset: list[float]
