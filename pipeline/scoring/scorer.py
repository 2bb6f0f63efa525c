"""The interface of a scorer: token sequences in, truncated teacher distributions out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from pipeline.core.types import Scores, TokenSequence
from pipeline.runtime.config import AboveZero, Fraction, NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncationParams:
    """Which of the teacher's V probabilities are stored at each position."""

    threshold: Fraction
    """Tokens that the teacher finds likelier than this are top tokens."""
    max_entries: Positive
    """The greatest number of top tokens per position, the likeliest first."""
    samples_per_tail: NonNegative
    """Tail samples per position for a tail of mass 1; a lighter tail gets proportionally fewer. 0 stores none."""
    min_tail: Fraction
    """Positions with a lighter tail get no tail samples."""
    temperatures: tuple[AboveZero, ...]
    """Temperatures at which a loss may be computed, 1 first; the tail at other temperatures is not stored."""

    def identity(self) -> dict[str, object]:
        """Return the parameters under the names that fingerprints and manifests of existing stores hold."""
        names = {"samples_per_tail": "draws_per_tail"}
        values = {names.get(name, name): value for name, value in asdict(self).items()}
        return values | {"temperatures": list(self.temperatures)}


class Scorer(Protocol):
    """A teacher that scores completions."""

    def score(self, sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        """Return the teacher's truncated distributions: one `Scores` of T positions per sequence, in order.

        Args:
            sequences: The sequences; a prompt may be read once for consecutive sequences that share it.
            on_tokens: Called with the number of tokens that were read, for progress bars.

        Raises:
            DataError: A sequence does not fit into the teacher's context.
            ModelError: The teacher's logits contain NaN or infinity.
        """
