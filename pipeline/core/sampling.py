"""How completions are drawn."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from pipeline.runtime.config import NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn."""

    max_new_tokens: Positive
    """Tokens after which a completion is cut."""
    temperature: NonNegative
    """Of the softmax; 0 is greedy."""
    top_p: Annotated[float, Interval(gt=0, le=1)]
    """Nucleus mass; 1 keeps every token, which the unbiased estimators need."""
    record_threshold: Annotated[float, Interval(gt=0, le=1)]
    """Tokens that the sampler finds likelier than this are recorded, for the union support."""
    record_max: Annotated[int, Interval(ge=0, le=255)]
    """At most so many of them a position, the likeliest first; 0 records none."""
    record_tail_samples: Annotated[int, Interval(ge=0, le=255)]
    """Draws from all other tokens at each position, recorded beside them: what the teacher says of the student's tail
    (G, for `objective.tail_estimator: g`) comes from these. 0 records none."""


def comparable_temperature(sampling: Sampling) -> float | None:
    """The temperature at which a model's log-probs compare with those of the sampler; None where there is none."""
    return sampling.temperature if sampling.top_p == 1 and sampling.temperature > 0 else None
