"""pipeline.store.codecs.prediction: what whole numbers say, beside a plain calculation; differences come back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.codecs.prediction import Expectation, less_first, plus_first
from pipeline.store.codecs.sqrt8 import _table

LOGP_C, EDGES = _table(128, 20.0)
EXPECT = Expectation.of(LOGP_C, EDGES)
P_C = np.exp(LOGP_C)
rows = st.lists(st.lists(st.integers(1, 255), max_size=6), min_size=1, max_size=5)


@given(rows)
def test_sums_are_those_of_each_position(heads: list[list[int]]) -> None:
    sums_N = EXPECT.sums(
        np.array([code for head in heads for code in head], np.uint8), np.array([len(head) for head in heads], np.int32)
    )
    for actual, head in zip(sums_N.tolist(), heads, strict=True):
        assert actual & 0xFFFFFFFF == sum(round(P_C[code] * 2**24) for code in head)
        assert actual >> 32 == sum(round(-P_C[code] * LOGP_C[code] * 2**14) for code in head)


@given(st.lists(st.integers(1, 200), max_size=6), st.integers(0, 255))
def test_expected_codes_are_close_to_exact_ones(head: list[int], tail: int) -> None:
    sums_N = EXPECT.sums(np.array(head, np.uint8), np.array([len(head)], np.int32))
    rest = max(1 - sum(P_C[code] for code in head), 0)
    assert math.sqrt(P_C[EXPECT.tail(sums_N)[0]]) == pytest.approx(math.sqrt(rest), abs=0.021)  # a bin and half a step
    mass = P_C[tail]
    nats = sum(-P_C[code] * LOGP_C[code] for code in head) + 7.5 * mass - (mass * LOGP_C[tail] if tail else 0)
    code = EXPECT.entropy(sums_N, np.array([tail], np.uint8))[0]
    assert code == pytest.approx(min(32 * math.sqrt(nats), 255), abs=1.1)


def test_the_expected_tail_of_no_and_of_all_mass() -> None:
    assert EXPECT.tail(EXPECT.sums(np.array([255, 255], np.uint8), np.array([2, 0], np.int32))).tolist() == [1, 255]


def test_differences_come_back_and_later_temperatures_stay_as_they_are() -> None:
    code_NH = np.array([[3, 7], [250, 0]], np.uint8)
    expected_N = np.array([200, 4], np.uint8)
    difference_NH = less_first(code_NH, expected_N)
    assert difference_NH.tolist() == [[59, 7], [246, 0]]
    assert plus_first(difference_NH, expected_N).tolist() == code_NH.tolist()
    assert code_NH.tolist() == [[3, 7], [250, 0]]
