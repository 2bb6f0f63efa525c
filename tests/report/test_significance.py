"""Which changes of a run are larger than their standard errors, and what the report warns of."""

from typing import Any

import pytest

from pipeline.report.significance import Change, Value, warnings_of


def change(before: tuple[float, float], after: tuple[float, float], goal: tuple[float, float]) -> Change:
    ends = [Value(value=value, error=error) for value, error in (before, after, goal)]
    return Change(key="rouge_l", before=ends[0], after=ends[1], goal=ends[2])


def test_a_share_needs_a_way_that_is_longer_than_its_error() -> None:
    assert change((0.10, 0.03), (0.16, 0.03), (0.22, 0.04)).share == pytest.approx(0.5)
    assert change((0.20, 0.03), (0.16, 0.03), (0.24, 0.04)).share is None  # the error of the way is 0.05
    assert change((0.20, 0.0), (0.16, 0.0), (0.24, 0.0)).share == pytest.approx(-1)
    assert change((0.20, 0.0), (0.16, 0.0), (0.20, 0.0)).share is None


def test_a_change_is_certain_above_its_error() -> None:
    assert change((0.10, 0.03), (0.16, 0.04), (1, 0)).is_certain
    assert not change((0.10, 0.03), (0.14, 0.04), (1, 0)).is_certain


def run(rouge: float, teacher: float, error: float) -> dict[str, Any]:
    """Return metrics.json of a run whose forward KL surely fell."""
    before, after = {"forward_kl": 2.0, "rouge_l": 0.1}, {"forward_kl": 1.0, "rouge_l": rouge}
    of_ends = {key: {"forward_kl": 0.1, "rouge_l": error} for key in ("before", "r1")}
    return {
        "headline": "rouge_l",
        "teacher": {"rouge_l": teacher},
        "students": {"small": {"before": before, "after": after, "rounds": [{"id": "r1", **after}]}},
        "errors": {"teacher": {"rouge_l": 0.04}, "small": of_ends},
        "warnings": ["train: 3 of 10 cases are too long"],
    }


def test_a_run_warns_of_what_is_within_its_error() -> None:
    assert warnings_of(run(0.2, 0.3, 0.03)) == ["train: 3 of 10 cases are too long"]
    assert warnings_of(run(0.12, 0.14, 0.03))[1:] == [
        "small: the change of ROUGE-L from 0.100 ± 0.030 to 0.120 ± 0.030 is within its standard error; "
        "raise evaluation.prompts",
        "small: the way of ROUGE-L from 0.100 ± 0.030 to the teacher's 0.140 ± 0.040 is within its standard error, "
        "so that no share of it is shown",
    ]


def test_a_run_of_an_earlier_version_knows_no_errors() -> None:
    old = run(0.12, 0.14, 0.03)
    del old["errors"], old["warnings"]
    assert warnings_of(old) == []
