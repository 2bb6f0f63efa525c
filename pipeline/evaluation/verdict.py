"""Judge whether training made a student worse, and say what to change.

* A student is worse if a measure that it was trained on is more than two standard errors of the paired difference worse
  than before training, and none of them is so much better.
* The measures are the trained divergence, or both KL divergences where another one is trained, with the likelihood of
  references and the reward where the loss contains them.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.measurements import Change, Measurements

_ERRORS = 2.0
_RISES = ("reward",)  # measures that are better when they are larger


def judged_measures(objective: Mapping[str, Any]) -> list[str]:
    """Return the measures of what the section `objective` trains."""
    name, alpha = objective["divergence"]["name"], objective["alpha"]
    divergences = [name] if name in ("forward_kl", "reverse_kl") else ["forward_kl", "reverse_kl"]
    likelihood = ["reference_nll"] if objective["cross_entropy"] > 0 else []
    return [*(divergences + likelihood if alpha > 0 else []), *(["reward"] if alpha < 1 else [])]


def worse_message(
    where: str, before: Measurements, changes: Mapping[str, Change], parameters: Mapping[str, Any]
) -> str | None:
    """Return a line about a student that is worse than before training, with what to change, or None.

    Args:
        where: The student and the round.
        before: The metrics before training.
        changes: The changes since then.
        parameters: The sections `objective` and `optimizer` that the last round was trained with.
    """
    judged = [name for name in judged_measures(parameters["objective"]) if name in changes]
    worse = [name for name in judged if _errors_worse(name, changes[name]) > _ERRORS]
    if not worse or any(_errors_worse(name, changes[name]) < -_ERRORS for name in judged):
        return None
    facts = [_fact(name, before[name].value, changes[name]) for name in worse]
    rate, divergence = parameters["optimizer"]["learning_rate"], parameters["objective"]["divergence"]["name"]
    remedy = f"lower optimizer.learning_rate ({rate:g}, perhaps to a tenth), take fewer schedule.total_steps, or "
    remedy += f"change objective.divergence ({divergence}); see docs/training.md#learning-rates"
    return f"{where} is worse than before training: {', '.join(facts)}; {remedy}"


def _errors_worse(name: str, change: Change) -> float:
    """Return by how many standard errors a measure got worse; 0 where the error is unknown."""
    if not change.error:
        return 0.0
    return (-1 if name in _RISES else 1) * change.difference / change.error


def _fact(name: str, before: float, change: Change) -> str:
    after = before + change.difference
    return f"{name} {before:.3f} -> {after:.3f} (difference {change.difference:+.3f} ± {change.error:.3f})"
