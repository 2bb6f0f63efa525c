"""Measurements on held-out prompts: what each prompt adds to a metric, from which standard errors follow.

* A metric is a sum of totals over a sum of weights, with one pair per prompt. The weight of a mean over prompts is 1,
  and of a mean over tokens the number of the prompt's tokens.
* Other metrics, such as BLEU, are jackknifed: pseudo-values stand for the totals, one for each group of prompts.
* Models complete the same prompts, so that errors of differences are paired: a prompt that is hard for both models
  adds little. Source: Cochran, "Sampling Techniques", 1977, sections 6.3 and 6.4 (linearised ratio estimators).
* Shape: G prompts or groups of prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Prompt
from pipeline.runtime.files import read_rows, write_rows
from schemas.heldout import HELDOUT

T = TypeVar("T")

_GROUPS = 20  # of the jackknife, which computes every metric once per group


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A metric of a model on held-out prompts."""

    prompt_ids: tuple[str, ...]  # the prompt, or the first prompt of each group
    parts_G2: NDArray[np.float64]  # total and weight

    @property
    def value(self) -> float:
        """The metric."""
        total, weight = map(fsum, self.parts_G2.T.tolist())
        return total / weight

    def deviations(self) -> NDArray[np.float64]:
        """Return how far each part moves the metric [G], to the first order."""
        totals_G, weights_G = self.parts_G2.T
        deviations_G: NDArray[np.float64] = (totals_G - self.value * weights_G) / weights_G.sum()
        return deviations_G

    @property
    def error(self) -> float | None:
        """The standard error of the metric over prompts, None for a single prompt."""
        return error_of(self.deviations())


Measurements = dict[str, Measurement]


def error_of(deviations_G: NDArray[np.float64]) -> float | None:
    """Return the standard error that follows from the deviations of independent parts, None for a single one."""
    count = len(deviations_G)
    return None if count < 2 else sqrt((deviations_G**2).sum() * count / (count - 1))


def of_ratio(prompts: Sequence[Prompt], totals: Sequence[float], weights: Sequence[float]) -> Measurement:
    """Return a metric that is a sum of totals over a sum of weights."""
    parts_G2 = np.array([totals, weights], dtype=np.float64).T
    return Measurement(prompt_ids=tuple(prompt.prompt_id for prompt in prompts), parts_G2=parts_G2)


def of_mean(prompts: Sequence[Prompt], values: Sequence[float]) -> Measurement:
    """Return a metric that is a mean over prompts."""
    return of_ratio(prompts, values, [1.0] * len(values))


def jackknifed(
    prompts: Sequence[Prompt], items: Sequence[T], metrics_of: Callable[[Sequence[T]], Mapping[str, float]]
) -> Measurements:
    """Return metrics that need not be means, such as BLEU.

    Errors of means are exact up to 20 prompts, and estimates from 20 groups above. The mean of the pseudo-values is
    moved to the metric itself.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 11.2 and 11.5.

    Args:
        prompts: The prompts.
        items: What each prompt adds to the metrics.
        metrics_of: Returns the metrics of a part of the items.
    """
    whole = metrics_of(items)
    if len(items) == 1:
        return {name: of_mean(prompts, [value]) for name, value in whole.items()}
    count = min(_GROUPS, len(items))
    rest = [[item for index, item in enumerate(items) if index % count != group] for group in range(count)]
    parts = [metrics_of(part) for part in rest]
    centres = {name: mean(part[name] for part in parts) for name in whole}
    return {
        name: of_mean(prompts[:count], [value + (count - 1) * (centres[name] - part[name]) for part in parts])
        for name, value in whole.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a metric of a student changed, and how much of the way to its teacher that is."""

    difference: float
    error: float | None  # paired over prompts; None for a single prompt
    goal: float | None  # the metric of the teacher, or of a student that equals it
    # The share of the way to the goal; None where there is none, or the way is within its standard error.
    share: float | None
    share_error: float | None


def change_of(before: Measurement, after: Measurement, goal: Measurement | float | None) -> Change:
    """Return the change between two models that completed the same prompts.

    Args:
        before: The metric before training.
        after: The metric after training.
        goal: The teacher's metric, a constant where a student that equals the teacher has that value, or None.
    """
    assert before.prompt_ids == after.prompt_ids, "the two models completed different prompts"
    difference, off_G = after.value - before.value, after.deviations() - before.deviations()
    error, share, share_error = error_of(off_G), None, None
    at_goal, off_goal_G = (goal.value, goal.deviations()) if isinstance(goal, Measurement) else (goal, 0.0)
    if at_goal is not None and error is not None:
        way, off_way_G = at_goal - before.value, off_goal_G - before.deviations()
        if abs(way) > (error_of(off_way_G) or 0.0):
            share = difference / way
            share_error = error_of((off_G - share * off_way_G) / way)
    return Change(difference=difference, error=error, goal=at_goal, share=share, share_error=share_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    prompt_id: str
    text: str
    measures: list[dict[str, Any]]


def write_measurements(path: Path, prompts: Sequence[Prompt], texts: Sequence[str], measured: Measurements) -> None:
    """Write a row for each prompt: its greedy completion, and its parts of all metrics."""
    of_prompt: dict[str, list[dict[str, Any]]] = {prompt.prompt_id: [] for prompt in prompts}
    for name, measurement in measured.items():
        for prompt_id, (total, weight) in zip(measurement.prompt_ids, measurement.parts_G2.tolist(), strict=True):
            of_prompt[prompt_id].append({"name": name, "total": total, "weight": weight})
    pairs = zip(of_prompt.items(), texts, strict=True)
    write_rows(path, [_Row(prompt_id=id_, text=text, measures=parts) for (id_, parts), text in pairs], HELDOUT)


def read_measurements(path: Path) -> tuple[dict[str, str], Measurements]:
    """Return the greedy completions by prompt id, and the metrics.

    Raises:
        DataError: The file is missing, damaged or of another schema.
    """
    rows, parts = read_rows(path, HELDOUT), dict[str, dict[str, tuple[float, float]]]()
    for row in rows:
        for part in row["measures"]:
            parts.setdefault(part["name"], {})[row["prompt_id"]] = (part["total"], part["weight"])
    measured = {
        name: Measurement(prompt_ids=tuple(by_prompt), parts_G2=np.array(list(by_prompt.values())))
        for name, by_prompt in parts.items()
    }
    return {row["prompt_id"]: row["text"] for row in rows}, measured
