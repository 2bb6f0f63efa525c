"""Standard errors, compared with the formula of a mean and with the spread of many samples."""

from statistics import mean, stdev

import numpy as np
import pytest

from pipeline.evaluation.standard_errors import error_of_mean, error_of_ratio, jackknife_errors

VALUES = [0.5, 2.0, 3.5, 1.0, 8.0]


def test_the_error_of_a_mean() -> None:
    assert error_of_mean(VALUES) == pytest.approx(stdev(VALUES) / 5**0.5)
    assert error_of_ratio(np.array([(value, 1.0) for value in VALUES])) == pytest.approx(error_of_mean(VALUES))


def test_the_jackknife_of_a_mean_is_its_error() -> None:
    errors = jackknife_errors(lambda part: {"mean": mean(part), "twice": 2 * mean(part)}, VALUES)
    assert errors == {"mean": pytest.approx(error_of_mean(VALUES)), "twice": pytest.approx(2 * error_of_mean(VALUES))}


def test_the_jackknife_of_many_items_uses_groups_of_them() -> None:
    """It computes each metric 20 times, and comes close to the spread of the metric over samples."""
    samples = np.random.default_rng(0).exponential(size=(200, 100))
    sizes: list[int] = []

    def root(part: "list[float]") -> dict[str, float]:
        sizes.append(len(part))
        return {"root": mean(part) ** 0.5}

    errors = [jackknife_errors(root, sample.tolist())["root"] for sample in samples]
    assert sizes == [95] * 20 * len(samples)
    assert np.mean(errors) == pytest.approx(np.sqrt(samples.mean(1)).std(), rel=0.1)


def test_the_error_is_how_far_samples_of_prompts_differ() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, size=(3000, 120)).astype(float)
    over = length * rng.exponential(size=length.shape)
    means = over.sum(1) / length.sum(1)
    errors = [error_of_ratio(np.stack([sums, tokens], -1)) for sums, tokens in zip(over, length, strict=True)]
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.05)
