"""Standard errors, and paired changes, compared with formulas by hand and with the spread of many samples."""

from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest

from pipeline.evaluation.measurements import (
    change_of,
    jackknifed,
    of_mean,
    of_ratio,
    read_measurements,
    write_measurements,
)
from tests.factories import prompt

VALUES = [0.5, 2.0, 3.5, 1.0, 8.0]
PROMPTS = [prompt(f"p{index}", [index]) for index in range(120)]


def test_the_error_of_a_mean() -> None:
    measured = of_mean(PROMPTS[:5], VALUES)
    assert measured.value == pytest.approx(3.0)
    assert measured.error == pytest.approx(stdev(VALUES) / 5**0.5)


def test_the_error_of_a_ratio() -> None:
    """The ratio is 6/4, which the parts move by (2 - 1.5)/4 and (4 - 4.5)/4; the error is sqrt(2 / 1 * 2 / 64)."""
    measured = of_ratio(PROMPTS[:2], [2, 4], [1, 3])
    assert (measured.value, measured.error) == (1.5, pytest.approx(0.25))


def test_a_single_prompt_has_no_error() -> None:
    measured = of_mean(PROMPTS[:1], [2.0])
    assert measured.error is None
    change = change_of(measured, of_mean(PROMPTS[:1], [3.0]), 4.0)
    assert (change.difference, change.error, change.share) == (1.0, None, None)
    (jackknife,) = jackknifed(PROMPTS[:1], [2.0], lambda part: {"mean": mean(part)}).values()
    assert (jackknife.value, jackknife.error) == (2.0, None)


def test_the_jackknife_of_a_mean_is_its_error() -> None:
    of_parts = jackknifed(PROMPTS[:5], VALUES, lambda part: {"mean": mean(part), "twice": 2 * mean(part)})
    once = of_mean(PROMPTS[:5], VALUES)
    assert once.error is not None
    for name, factor in (("mean", 1), ("twice", 2)):
        assert of_parts[name].value == pytest.approx(factor * once.value)
        assert of_parts[name].error == pytest.approx(factor * once.error)


def test_the_jackknife_of_many_items_uses_groups_of_them() -> None:
    """It computes each metric 20 times, and comes close to the spread of the metric over samples."""
    samples = np.random.default_rng(0).exponential(size=(200, 100))
    sizes: list[int] = []

    def root(part: "list[float]") -> dict[str, float]:
        sizes.append(len(part))
        return {"root": mean(part) ** 0.5}

    measured = [jackknifed(PROMPTS[:100], sample.tolist(), root)["root"] for sample in samples]
    assert sizes == [100, *[95] * 20] * len(samples)
    assert [each.value for each in measured] == pytest.approx(np.sqrt(samples.mean(1)))
    assert np.mean([each.error for each in measured]) == pytest.approx(np.sqrt(samples.mean(1)).std(), rel=0.1)


def test_a_change_is_paired_over_prompts() -> None:
    """Differences of 1, 1.5 and 0.5 with ways of 3, 2 and 1: half of the way, and each value worked out by hand."""
    before, after = of_mean(PROMPTS[:3], [1, 2, 3]), of_mean(PROMPTS[:3], [2, 3.5, 3.5])
    change = change_of(before, after, 4.0)
    assert (change.difference, change.share, change.goal) == (pytest.approx(1), pytest.approx(0.5), 4.0)
    assert change.error == pytest.approx(0.5 / 3**0.5)
    assert change.share_error == pytest.approx(0.25 / 3**0.5)


def test_a_share_needs_a_way_that_is_longer_than_its_error() -> None:
    before, after = of_mean(PROMPTS[:3], [1, 2, 3]), of_mean(PROMPTS[:3], [2, 3.5, 3.5])
    assert change_of(before, after, 2.5).share is None  # the way is 0.5 and its error 1 / sqrt(3)
    # The same prompts are as hard for the teacher, so that the way has no error.
    assert change_of(before, after, of_mean(PROMPTS[:3], [1.5, 2.5, 3.5])).share == pytest.approx(2)
    assert change_of(before, after, None).share is None


def test_errors_are_how_far_samples_of_prompts_differ() -> None:
    """Prompts differ in length and hardness; a model halves what is above the teacher's value, with noise."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, size=(2000, 120)).astype(float)
    before = 1 + rng.exponential(size=length.shape)
    after = 1 + (before - 1) / 2 + rng.normal(scale=0.2, size=length.shape)
    measured = [
        [of_ratio(PROMPTS, (n * values).tolist(), n.tolist()) for values in models]
        for n, *models in zip(length, before, after, strict=True)
    ]
    changes = [change_of(*pair, 1.0) for pair in measured]
    for values, errors in (
        ([pair[0].value for pair in measured], [pair[0].error for pair in measured]),
        ([change.difference for change in changes], [change.error for change in changes]),
        ([change.share for change in changes], [change.share_error for change in changes]),
    ):
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)


def test_measurements_are_read_as_they_were_written(tmp_path: Path) -> None:
    prompts = PROMPTS[:30]
    measured = {"mean": of_mean(prompts, [*range(30)]), "ratio": of_ratio(prompts, [*range(30)], [2] * 30)}
    measured |= jackknifed(prompts, [*range(30)], lambda part: {"largest": max(part)})
    write_measurements(tmp_path / "x.parquet", prompts, [f"text {index}" for index in range(30)], measured)
    texts, read = read_measurements(tmp_path / "x.parquet")
    assert texts == {f"p{index}": f"text {index}" for index in range(30)}
    assert list(read) == list(measured)
    for name, expected in measured.items():
        assert read[name].prompt_ids == expected.prompt_ids
        assert read[name].parts_G2.tolist() == expected.parts_G2.tolist()
