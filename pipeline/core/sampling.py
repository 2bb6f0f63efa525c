"""The parameters of sampling completions."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from pipeline.runtime.config import NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled."""

    max_new_tokens: Positive
    """The greatest length of a completion; longer ones are cut."""
    temperature: NonNegative
    """Temperature of the softmax; 0 samples greedily."""
    top_p: Annotated[float, Interval(gt=0, le=1)]
    """Probability mass of the nucleus; 1 samples from all tokens, as the unbiased estimators require."""
    record_threshold: Annotated[float, Interval(gt=0, le=1)]
    """Tokens that the sampler finds likelier than this are recorded: the student-support tokens."""
    record_max: Annotated[int, Interval(ge=0, le=255)]
    """The greatest number of recorded tokens per position, the likeliest first; 0 records none."""
    record_tail_samples: Annotated[int, Interval(ge=0, le=255)]
    """Recorded samples from all other tokens per position, for the tail estimator tail_mean; 0 records none."""


def comparable_temperature(sampling: Sampling) -> float | None:
    """Return the temperature at which a model's log-probs compare with the sampler's, None where there is none."""
    return sampling.temperature if sampling.top_p == 1 and sampling.temperature > 0 else None
