"""Standard errors of metrics over the held-out prompts: how far a metric might be off with other prompts."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

_GROUPS = 20  # of the jackknife, which computes every metric once per group


def error_of_mean(values: Sequence[float]) -> float:
    """Return the standard error of the mean of at least two values."""
    return float(stdev(values) / math.sqrt(len(values)))


def error_of_ratio(sums_G2: NDArray[np.float64]) -> float:
    """Return the standard error of a ratio of two sums over a sample of G prompts, linearised.

    Source: Cochran, "Sampling Techniques", 1977, section 6.3 (ratio estimators).
    """
    over_G, under_G = sums_G2.T
    off_G = over_G - over_G.sum() / under_G.sum() * under_G
    return float(np.sqrt((off_G**2).sum() * len(off_G) / (len(off_G) - 1)) / under_G.sum())


def jackknife_errors(metrics_of: Callable[[Sequence[T]], Mapping[str, float]], items: Sequence[T]) -> dict[str, float]:
    """Return the standard errors of metrics that need not be means, such as BLEU.

    Errors of means are exact up to 20 items, and estimates from 20 groups above.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 11.5 (the jackknife, by groups).

    Args:
        metrics_of: Returns the metrics of a part of the items.
        items: At least two items.
    """
    count = min(_GROUPS, len(items))
    rest = [[item for index, item in enumerate(items) if index % count != group] for group in range(count)]
    parts = [metrics_of(part) for part in rest]
    values = {name: [part[name] for part in parts] for name in parts[0]}
    centres = {name: mean(of_parts) for name, of_parts in values.items()}
    return {
        name: ((count - 1) / count * sum((value - centres[name]) ** 2 for value in of_parts)) ** 0.5
        for name, of_parts in values.items()
    }
