"""Tests of the worked steps, of the difficulty, and of the splits."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.exact_match import final_number
from pipeline.runtime.config import parse
from pipeline.runtime.errors import ParameterError
from pipeline.tasks.arithmetic import Arithmetic, ArithmeticSettings
from pipeline.tasks.base import Case, Judged

SETTINGS: dict[str, Any] = {
    "seed": 0,
    "problems": 300,
    "heldout_share": 0.25,
    "min_steps": 1,
    "max_steps": 4,
    "max_operand": 12,
    "max_value": 60,
    "operations": ["add", "subtract", "multiply", "divide"],
}
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}


def cases(**changes: Any) -> list[Case]:
    return list(Arithmetic().cases(parse(ArithmeticSettings, SETTINGS | changes, where="task.settings")))


def steps(case: Case) -> list[tuple[int, str, int, int]]:
    *lines, last = case.references[0].splitlines()
    matches = [STEP.fullmatch(line) for line in lines]
    assert all(matches)
    numbers = [(int(match[1]), match[2], int(match[3]), int(match[4])) for match in matches if match]
    assert last == f"#### {numbers[-1][3]}"
    return numbers


@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(2, 30),
    st.integers(0, 200),
    st.sets(st.sampled_from(sorted(SIGNS)), min_size=1),
)
def test_every_problem_is_right_and_as_hard_as_requested(
    seed: int, few: int, more: int, operand: int, room: int, operations: set[str]
) -> None:
    limits = {"min_steps": few, "max_steps": few + more, "max_operand": operand, "max_value": operand + room}
    for case in cases(seed=seed, problems=20, operations=sorted(operations), **limits):
        worked = steps(case)
        assert few <= len(worked) <= few + more
        assert {sign for _, sign, _, _ in worked} <= {SIGNS[operation] for operation in operations}
        for (left, sign, right, result), following in zip(worked, [*worked[1:], None], strict=True):
            assert eval(f"{left} {sign} {right}") == result
            assert 1 <= result <= operand + room
            assert 1 <= right <= operand
            assert following is None or following[0] == result
        numbers = [int(text) for text in re.findall(r"\d+", case.fields["question"])]
        assert numbers == [worked[0][0], *(right for _, _, right, _ in worked)]


def test_a_computation_occurs_once_and_in_one_split() -> None:
    problems = cases(problems=3000, max_steps=2)
    computations = [case.references[0] for case in problems]
    assert len(set(computations)) == len(problems) < 3000
    share = sum(case.split == "heldout" for case in problems) / len(problems)
    assert share == pytest.approx(0.25, abs=0.04)


def test_more_problems_keep_the_earlier_and_another_seed_gives_others() -> None:
    few, many = cases(problems=50), cases(problems=100)
    assert many[: len(few)] == few
    assert cases(problems=50, seed=1) != few


def test_the_wording_does_not_decide_the_split() -> None:
    """The same computation under two seeds has other words and the same split."""
    first = {case.case_id: case for case in cases(max_steps=1, problems=500)}
    second = {case.case_id: case for case in cases(max_steps=1, problems=500, seed=1)}
    both = first.keys() & second.keys()
    assert len(both) > 50
    assert any(first[name].fields != second[name].fields for name in both)
    assert all(
        (first[name].split, first[name].references) == (second[name].split, second[name].references) for name in both
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_steps": 5}, "min_steps: expected at most max_steps (4), got 5; fix params.yaml"),
        ({"max_operand": 61}, "max_operand: expected at most max_value (60), got 61; fix params.yaml"),
        ({"operations": []}, "operations: expected some of add, subtract, multiply, divide, got none; fix"),
        ({"operations": ["power"]}, "operations[0]: expected one of: add, subtract, multiply, divide, got 'power'"),
        ({"heldout_share": 0}, "heldout_share: expected > 0 and <= 1, got 0"),
    ],
)
def test_settings_without_a_problem_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        cases(**changes)
    assert str(caught.value).startswith(f"task.settings.{message}")


def test_the_final_number_decides() -> None:
    (case, *_) = cases(problems=1)
    right = final_number(case.references[0])
    assert right is not None
    assert Arithmetic().score(f"So it is {right}", case.references) == 1.0
    assert Arithmetic().score(f"So it is {right + 1}", case.references) == 0.0
    judged = [Judged(text="", references=[], score=score) for score in (1.0, 0.0)]
    assert Arithmetic().metrics(judged) == {"exact_match": 0.5}
