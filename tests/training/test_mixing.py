"""The sources of batch slots, and adaptive replay."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.types import Rollout, Source
from pipeline.training.mixing import (
    CorpusWeights,
    Ramp,
    ReplayParams,
    corpus_shares,
    draw_kinds,
    fraction_at,
    replay_weight,
    reverse_kl_by_step,
)


def written(step: int, logp: float, source: Source, tokens: int = 3) -> Rollout:
    return Rollout(
        rollout_id=f"{source}{step}",
        prompt_id="p",
        source=source,
        policy=f"m{step}",
        prompt_ids=[1],
        completion_ids=[2] * tokens,
        behaviour_logp=[logp] * tokens,
        support_ids=[],
        tail_sample_ids=[],
        tail_offset=[],
        finished=False,
        text="",
        step=step,
    )


def replay(**changes: Any) -> ReplayParams:
    return ReplayParams(**({"rounds": 3, "weight": 0.6, "max_age": None, "adaptive": True} | changes))


def test_a_ramp_is_linear_and_then_constant() -> None:
    ramp = Ramp(start=0.8, end=0.2, steps=4)
    assert [fraction_at(ramp, step) for step in range(6)] == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2, 0.2])
    assert fraction_at(0.3, 7) == 0.3


def test_reverse_kl_is_estimated_from_a_rounds_own_tokens() -> None:
    """The estimate is enumerated for one token out of two, sampled from b."""
    b, p = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    rollouts = [written(0, float(np.log(b[token])), "student", 1) for token in (0, 0, 0, 1)]
    nll_B = np.array([-np.log(p[token]) for token in (0, 0, 0, 1)])
    assert reverse_kl_by_step(rollouts, nll_B) == pytest.approx({0: (b * np.log(b / p)).sum()})
    long, short = written(5, -1.0, "replay", 3), written(5, -2.0, "replay", 1)
    others = [written(9, -9.0, source) for source in ("dataset", "teacher")]  # type: ignore[arg-type]
    assert reverse_kl_by_step([long, short, *others], np.array([2.0, 6.0, 1, 1])) == {5: (3 * 1.0 + 4.0) / 4}


@pytest.mark.parametrize(
    ("gaps", "weight"),
    [([1.0, 2.0], 0.6), ([2.0, 1.0], 0.0), ([2.0, 1.0, 3.0], 0.3), ([1.0, 2.0, 3.0, 0.5], 0.4), ([1.0, 1.0], 0.0)],
)
def test_replay_decreases_as_the_divergence_stops_falling(gaps: list[float], weight: float) -> None:
    """`gaps` are the reverse KLs of this round and of earlier ones, newest first."""
    rollouts = [written(30 - 10 * age, -1.0, "replay" if age else "student") for age in range(len(gaps))]
    nll_B = np.array(gaps) + 1.0
    assert replay_weight(replay(), rollouts, nll_B) == pytest.approx(weight)
    assert replay_weight(replay(adaptive=False), rollouts, nll_B) == 0.6


def test_without_replayed_rollouts_the_weight_is_zero() -> None:
    for adaptive in (True, False):
        assert replay_weight(replay(adaptive=adaptive), [written(0, -1.0, "student")], np.array([1.0])) == 0.0


def test_a_source_without_sequences_leaves_its_share_to_other_sources() -> None:
    weights = CorpusWeights(dataset=1.0, teacher=2.0)
    assert corpus_shares(weights, {"dataset": 5, "teacher": 1}) == {"dataset": 1 / 3, "teacher": 2 / 3}
    assert corpus_shares(weights, {}) == {}


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_no_kind_without_a_share_is_drawn(weights: list[int], uniform: list[float]) -> None:
    share_K = np.array(weights) / sum(weights)
    drawn = draw_kinds(np.array([*uniform, np.nextafter(1, 0)]), np.tile(share_K, (len(uniform) + 1, 1)))
    assert all(weights[kind] > 0 for kind in drawn.tolist())


def test_kinds_come_in_proportion() -> None:
    uniform_N = (np.arange(1000) + 0.5) / 1000
    drawn = draw_kinds(uniform_N, np.tile([0.2, 0.0, 0.5, 0.3], (1000, 1)))
    assert np.bincount(drawn, minlength=4).tolist() == [200, 0, 500, 300]
