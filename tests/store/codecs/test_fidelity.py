"""pipeline.store.codecs.fidelity: figures worked out by hand, and that a sample stands for all positions."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.core.types import Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs import CODECS
from pipeline.store.codecs.fidelity import measure
from pipeline.store.ragged import join_scores
from tests.scores import entries, top_only

SQRT8, RSKD = CODECS["sqrt8"], CODECS["rskd"]


def _row(p: list[float], tail: float) -> Scores:
    return top_only(list(range(len(p))), np.log(p), [len(p)], tail=tail, token_logp=-1.0)


def test_what_is_read_as_it_was_has_no_error() -> None:
    scores = join_scores([_row([0.5, 0.25], 0.25), _row([], 1.0), _row([], 0.0)], 1)
    actual = measure(scores, scores, SQRT8)
    assert (actual.positions, actual.sqrt_p_max, actual.sqrt_p_mean, actual.log_p_max, actual.forward_kl) == (
        3,
        0,
        0,
        0,
        0,
    )
    assert measure(join_scores([], 1), join_scores([], 1), SQRT8).positions == 0


def test_the_figures_are_those_of_a_calculation_by_hand() -> None:
    before = join_scores([_row([0.36, 4e-4], 0.64), _row([0.25], 0.75)], 1)
    after = join_scores([_row([0.3616, 4.4e-4], 0.64), _row([0.25], 0.75)], 1)
    actual = measure(before, after, SQRT8)
    errors = math.sqrt(0.3616) - 0.6, math.sqrt(4.4e-4) - math.sqrt(4e-4)
    assert actual.sqrt_p_max == pytest.approx(max(errors), rel=1e-3)
    assert actual.sqrt_p_mean == pytest.approx(sum(errors) / 9, rel=1e-3)  # 3 entries; 2 masses and a token a position
    assert actual.log_p_max == pytest.approx(math.log(0.3616 / 0.36), rel=1e-3)  # and not that of 4e-4
    p, q = np.array([0.36, 4e-4, 0.64]) / 1.0004, np.array([0.3616, 4.4e-4, 0.64]) / 1.00204
    assert actual.forward_kl == pytest.approx((p * np.log(p / q)).sum() / 2, rel=2e-3)


def test_entries_are_compared_token_by_token() -> None:
    before, after = _row([0.5, 0.25, 0.125], 0.125), _row([0.5, 0.25, 0.125], 0.125)
    turned = replace(after, top=replace(after.top, ids=after.top.ids[::-1].copy(), logp=after.top.logp[::-1].copy()))
    assert measure(before, turned, SQRT8).sqrt_p_max == 0


def test_tail_samples_are_compared_unless_they_are_estimates() -> None:
    before, after = (replace(_row([0.5], 0.5), tail_samples=entries([[5]], logp)) for logp in (-3.0, -2.0))
    assert measure(before, after, RSKD).sqrt_p_max == 0
    with pytest.raises(StoreError, match=r"codec sqrt8: expected an error of sqrt_p of at most 0\.0039\d+, got 0\.14"):
        measure(before, after, SQRT8)


def test_a_logarithm_beyond_the_promise_is_refused() -> None:
    with pytest.raises(StoreError, match=r"codec topk: expected an error of log_p of at most 0\.0039\d+, got 0\.0049"):
        measure(_row([0.0012], 1.0), _row([0.001206], 1.0), CODECS["topk"])


def test_a_sample_is_spread_evenly() -> None:
    positions = 3 * 4096
    head = top_only([1] * positions, math.log(0.5), [1] * positions, tail=0.5, token_logp=-1.0)
    logp = np.where(np.arange(positions) % 3 == 0, math.log(0.501), math.log(0.5)).astype(np.float32)
    actual = measure(head, replace(head, top=replace(head.top, logp=logp)), SQRT8)
    assert actual.positions == 4096
    assert actual.sqrt_p_mean == pytest.approx((math.sqrt(0.501) - math.sqrt(0.5)) / 4, rel=1e-3)
