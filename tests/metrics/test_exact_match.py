"""Tests of the final number of a text."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.exact_match import exact_match, final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 72", 72),
        ("#### $1,234.50", Fraction(2469, 2)),
        ("#### 5 apples, not 6", 5),
        ("first 3, then 4.", 4),
        ("The total is $18.", 18),
        ("it costs 1,000,000 dollars", 1_000_000),
        ("3,4", 4),
        ("-7", -7),
        ("a change of -$2.50.", Fraction(-5, 2)),
        ("a change of $-2", -2),
        ("9-4", 4),
        ("half is .5", Fraction(1, 2)),
        ("7 ####", 7),
        ("####", None),
        ("none at all", None),
        ("51.0", 51),
        ("1e5.", 100_000),
        ("so 2.5E-3", Fraction(1, 400)),
        ("-1e-2", Fraction(-1, 100)),
        ("the colour 1e5f", 5),
        ("5²", 5),
        ("答案是１，２３４。", 1_234),
        ("＃＃＃＃ －７", -7),
        ("उत्तर १२ है", 12),
        ("٣٫٥", Fraction(7, 2)),
    ],
)
def test_final_numbers(text: str, number: Fraction | int | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("completion", "expected"), [("That makes $1,000.00.", 1.0), ("That makes 999.", 0.0), ("No idea.", 0.0)]
)
def test_numbers_are_compared_as_numbers(completion: str, expected: float) -> None:
    assert exact_match(completion, ["#### 1000"]) == expected


def test_a_number_may_have_any_length() -> None:
    assert exact_match("1" + 5000 * "0", ["1" + 5000 * "0" + ".0"]) == 1.0


def test_any_reference_will_do_but_none_matches_no_number() -> None:
    assert exact_match("#### 3", ["#### 2", "#### 3"]) == 1.0
    assert exact_match("", ["nothing"]) == 0.0


@given(st.integers(-(10**12), 10**12), st.integers(1, 5))
def test_every_spelling_of_a_number_is_the_number(number: int, zeros: int) -> None:
    for spelt in (f"{number}", f"{number:,}", f"{number}.{'0' * zeros}", f"{number}."):
        assert final_number(f"7 so\n#### {spelt}") == number
