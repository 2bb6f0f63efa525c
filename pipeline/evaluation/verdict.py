"""Judge whether training made a student worse, and say what to change.

* Judged are the task's metric at every temperature, both KL divergences, the likelihood of references and the reward,
  as far as they were measured.
* A measure is worse, or better, if an unchanged one would differ so much with a chance of at most 2.5 % over the number
  of judged measures: one-sided, paired over prompts, Student's t. By Bonferroni's inequality an unchanged student is
  warned of with a chance of at most 2.5 % per round. Six measures and many prompts take 2.6 standard errors; two
  standard errors for each would warn of up to 13 %.
* A student is worse if the task's metric is, or what its loss contains, where several measures show either: one of them
  is worse and none is better. In all other cases with a worse measure the student is worse in part.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import copysign, inf, log1p, sqrt
from statistics import NormalDist
from typing import Any

from pipeline.evaluation.measurements import Change, Measurements

_FALSE_ALARMS = 0.025  # the chance of a warning about a student that did not change
_KLS = ("forward_kl", "reverse_kl")
_FALLS = (*_KLS, "reference_nll")  # measures that are better when they are smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What training did to a student."""

    worse: bool  # more than in part, which ends a schedule with `evaluation.stop_if_worse`
    message: str | None = None  # a line about a student that is worse or worse in part, with what to change


def judge_student(
    where: str, headline: str, before: Measurements, changes: Mapping[str, Change], parameters: Mapping[str, Any]
) -> Verdict:
    """Return the verdict on a student, from its changes since before training.

    Args:
        where: The student and the round.
        headline: The name of the task's metric.
        before: The metrics before training.
        changes: The changes since then.
        parameters: The sections `objective`, `batches` and `optimizer` that the last round was trained with.
    """
    of_task = [name for name in changes if name == headline or name.startswith(f"{headline}_at_")]
    judged = of_task + [name for name in (*_FALLS, "reward") if name in changes]
    limit = NormalDist().inv_cdf(1 - _FALSE_ALARMS / max(1, len(judged)))
    scores = {name: _score(name, changes[name], len(before[name].prompt_ids)) for name in judged}
    worse = [name for name in judged if scores[name] > limit]
    better = [name for name in judged if scores[name] < -limit]
    if not worse:
        return Verdict(worse=False)
    trained = trained_measures(parameters)
    is_worse = any(set(worse) & set(group) and not set(better) & set(group) for group in (of_task, trained))
    outcome = f"{where} is worse than before training" if is_worse else f"{where} is worse in part"
    texts = [f"{outcome}: {_facts(worse, before, changes)}"]
    if better:
        texts.append(f"better: {_facts(better, before, changes)}")
    if untrained := [name for name in worse if name not in (*of_task, *trained)]:
        texts.append(f"not in the loss: {', '.join(untrained)}")
    return Verdict(worse=is_worse, message="; ".join([*texts, _remedy(worse, trained, parameters)]))


def trained_measures(parameters: Mapping[str, Any]) -> list[str]:
    """Return the measures of what the loss contains; a divergence other than KL is measured by both KL divergences."""
    objective, batches = parameters["objective"], parameters["batches"]
    name, alpha, cross_entropy = objective["divergence"]["name"], objective["alpha"], objective["cross_entropy"]
    least, most = _student_fractions(batches)
    # The cross-entropy replaces the divergence, except on tokens that the student sampled.
    has_divergence = alpha > 0 and (most > 0 or cross_entropy < 1)
    weights = batches["corpus_weights"]
    has_references = alpha > 0 and cross_entropy > 0 and least < 1 and (weights is None or weights["dataset"] > 0)
    divergences = [name] if name in _KLS else [*_KLS]
    return [
        *(divergences if has_divergence else []),
        *(["reference_nll"] if has_references else []),
        *(["reward"] if alpha < 1 and most > 0 else []),
    ]


def _student_fractions(batches: Mapping[str, Any]) -> tuple[float, float]:
    """Return the least and the greatest share of student rollouts in batches."""
    fraction = batches["student_fraction"]
    ends = (fraction["start"], fraction["end"]) if isinstance(fraction, Mapping) else (fraction, fraction)
    return min(ends), max(ends)


def _score(name: str, change: Change, parts: int) -> float:
    """Return by how much a measure got worse, as a standard normal variable; 0 where the error is unknown.

    Source: Wallace, "Bounds on normal approximations to Student's and the chi-square distributions", 1959.

    Args:
        name: The measure.
        change: Its change.
        parts: The number of prompts, or of groups of prompts, that the error is estimated from.
    """
    if change.error is None or not change.difference or parts < 2:
        return 0.0
    freedom, errors = parts - 1, abs(change.difference) / change.error if change.error else inf
    score = (8 * freedom + 1) / (8 * freedom + 3) * sqrt(freedom * log1p(errors * errors / freedom))
    return copysign(score, change.difference if name in _FALLS else -change.difference)


def _facts(names: Sequence[str], before: Measurements, changes: Mapping[str, Change]) -> str:
    values = {name: (before[name].value, changes[name].difference, changes[name].error) for name in names}
    return ", ".join(
        f"{name} {start:.3f} -> {start + difference:.3f} (difference {difference:+.3f} ± {error:.3f})"
        for name, (start, difference, error) in values.items()
    )


def _remedy(worse: Collection[str], trained: Collection[str], parameters: Mapping[str, Any]) -> str:
    objective, rate = parameters["objective"], parameters["optimizer"]["learning_rate"]
    name, (_, most) = objective["divergence"]["name"], _student_fractions(parameters["batches"])
    if not set(trained) & set(_KLS):
        loss = "raise objective.alpha (0)" if objective["alpha"] == 0 else "lower objective.cross_entropy (1)"
    elif name == "forward_kl" and name not in worse and most > 0:
        loss = "set objective.divergence.name to reverse_kl or jsd, because forward KL on own completions flattens it"
    else:
        loss = f"change objective.divergence ({name})"
    rest = f"lower optimizer.learning_rate ({rate:g}, perhaps to a tenth), take fewer schedule.total_steps, or"
    return f"{rest} {loss}; see docs/training.md#learning-rates"
