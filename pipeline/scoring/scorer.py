"""The scorer protocol: completions in, truncated teacher distributions out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from pipeline.core.types import Scores, TokenSequence
from pipeline.runtime.config import AboveZero, Fraction, NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncationParams:
    """Which of the teacher's V probabilities are kept at each position."""

    threshold: Fraction
    """Teacher tokens likelier than this form the head."""
    max_entries: Positive
    """At most so many of them, the likeliest first."""
    samples_per_tail: NonNegative
    """Draws from the tail for a tail of mass 1; a lighter tail gets proportionally fewer. 0 stores none."""
    min_tail: Fraction
    """No draws where the tail is lighter than this."""
    temperatures: tuple[AboveZero, ...]
    """Temperatures at which the loss may be taken, 1 first: the tail at another one cannot be recovered later."""

    def identity(self) -> dict[str, object]:
        """Return the parameters under the names that fingerprints and manifests of existing stores hold."""
        names = {"samples_per_tail": "draws_per_tail"}
        values = {names.get(name, name): value for name, value in asdict(self).items()}
        return values | {"temperatures": list(self.temperatures)}


class Scorer(Protocol):
    """Scores completions under the teacher."""

    def score(self, sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        """The teacher's truncated distributions, one `Scores` a sequence, T rows each; `on_tokens` hears progress.

        Sequences of one prompt that follow each other may cost that prompt once.
        """
