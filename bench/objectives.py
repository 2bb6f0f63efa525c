"""The objective of a benchmark: one divergence alone, at temperature 1 and without a reward."""

from typing import Any

from pipeline.losses.divergences import DivergenceParams
from pipeline.losses.objective import ObjectiveParams


def divergence_alone(name: str, **changes: Any) -> ObjectiveParams:
    """Return the parameters of a divergence; `changes` sets the fields that a benchmark varies."""
    fields: dict[str, Any] = {
        "divergence": DivergenceParams(name=name, beta=0.5, skew=0.0, normalise=False),  # type: ignore[arg-type]
        "temperature": 1.0,
        "tail_estimator": "auto",
        "tail_samples_scale": 3.0,
        "tail_mean_staleness": 5.0,
        "cross_entropy": 0.0,
        "alpha": 1.0,
        "clip_epsilon": 0.2,
        "chunk_tokens": 512,
    }
    return ObjectiveParams(**(fields | changes))
