"""Staleness: zero for on-policy rollouts at every sampling temperature."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.sampling import Sampling, comparable_temperature
from pipeline.losses.batch import LossTargets
from pipeline.losses.fused_linear import FusedLinearLoss, StudentLogits
from pipeline.losses.staleness import is_stale, staleness_columns, staleness_sums
from pipeline.models import language_model as lm
from pipeline.rollout.hf_sampler import HFSampler

PROMPTS = [[256, 5, 9, 31], [256, 7, 7, 80], [256, 60]]


def sampling(temperature: float, top_p: float = 1.0) -> Sampling:
    return Sampling(
        max_new_tokens=20,
        temperature=temperature,
        top_p=top_p,
        record_threshold=1.0,
        record_max=0,
        record_tail_samples=0,
    )


def measured(logq: Any, behaviour: Any, known: Any = None, **more: float) -> dict[str, Any]:
    logq_N, behaviour_N = (torch.tensor(logp, dtype=torch.float64) for logp in (logq, behaviour))
    known_N = torch.ones(len(logq_N), dtype=torch.bool) if known is None else torch.tensor(known)
    sums = {name: float(value) for name, value in staleness_sums(logq_N, behaviour_N, known_N).items()}
    return staleness_columns(sums | {"own": 0, "truncated": 0} | more)


@torch.no_grad()
def after(writer: Path, reader: Path, settings: Sampling) -> dict[str, Any]:
    """Return the staleness of one model's rollouts under another model, with a loss at temperature 2."""
    sampler = HFSampler(writer, precision="float32", vocab=260, eos_ids=[257], seed=0)
    made = sampler.sample(PROMPTS, ["a", "b", "c"], settings)
    model = lm.load_model(reader)
    completions = [completion.token_ids for completion in made]
    hidden_ND = lm.completion_hidden(model, PROMPTS, completions)
    tokens_N = torch.tensor([token for ids in completions for token in ids])
    behaviour_N = torch.tensor([logp for completion in made for logp in completion.logp])
    temperature = comparable_temperature(settings)
    assert temperature is not None

    def loss(student: StudentLogits, span: slice) -> Any:
        known_N = torch.ones(len(student.token_N), dtype=torch.bool)
        sums = staleness_sums(student.token_logp_N, behaviour_N[span], known_N)
        return student.log_normaliser() - student.token_N, sums

    targets = LossTargets(
        ids_NK=tokens_N[:, None],
        logp_NK=torch.zeros(len(tokens_N), 1),
        tail_sample_ids_NJ=tokens_N[:, None],
        token_ids_N=tokens_N,
    )
    head = lm.head_of(model, 260)
    fused = FusedLinearLoss(
        head=head, targets=targets, loss=loss, temperature=2.0, token_temperature=temperature, chunk=7
    )
    _, sums = fused(hidden_ND)
    return staleness_columns({name: float(value) for name, value in sums.items()} | {"own": 3, "truncated": 1})


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7, 2.0])
def test_on_policy_rollouts_have_no_staleness_at_any_temperature(
    student_dir: Path, teacher_dir: Path, temperature: float
) -> None:
    fresh = after(student_dir, student_dir, sampling(temperature))
    assert fresh["compared_tokens"] > 10
    assert fresh["staleness_kl"] == pytest.approx(0, abs=1e-8)
    assert fresh["effective_share"] == pytest.approx(1, abs=1e-6)
    assert (fresh["clipped_share"], fresh["truncated_share"]) == (0, 1 / 3)
    stale = after(student_dir, teacher_dir, sampling(temperature))
    assert stale["staleness_kl"] > 0.1
    assert stale["effective_share"] < 0.9
    assert stale["clipped_share"] > 0.5


@pytest.mark.parametrize(
    ("temperature", "top_p", "comparable"), [(1.0, 1.0, 1.0), (0.7, 1.0, 0.7), (0.0, 1.0, None), (1.0, 0.9, None)]
)
def test_greedy_and_nucleus_sampling_have_no_comparable_temperature(
    temperature: float, top_p: float, comparable: float | None
) -> None:
    assert comparable_temperature(sampling(temperature, top_p)) == comparable


def test_a_step_without_on_policy_tokens_has_no_staleness_and_ends_no_round() -> None:
    row = measured([-1.0, -2.0], [float("nan"), -9.0], [False, False])
    assert row == {
        "compared_tokens": 0,
        "staleness_kl": None,
        "effective_share": None,
        "clipped_share": None,
        "truncated_share": None,
    }
    assert not is_stale(row, 1e-9)


def test_the_limit_is_exceeded_and_not_reached() -> None:
    assert is_stale({"staleness_kl": 0.2}, 0.1)
    assert not is_stale({"staleness_kl": 0.1}, 0.1)
    assert not is_stale({"staleness_kl": 1e9}, None)


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(-5, 0)), min_size=1, max_size=20))
def test_columns_are_within_their_bounds(pairs: list[tuple[float, float]]) -> None:
    now, before = zip(*pairs, strict=True)
    row = measured(now, before)
    weights = np.exp(np.array(now) - before)
    assert row["staleness_kl"] >= 0
    assert row["effective_share"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / len(pairs))
    assert 1 / len(pairs) - 1e-9 <= row["effective_share"] <= 1 + 1e-9
    assert row["clipped_share"] == pytest.approx((np.abs(weights - 1) > 0.2).mean())


def test_k3_estimates_the_divergence_from_the_old_student_to_the_new_one() -> None:
    """The expectation under b is enumerated."""
    b, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    expected = sum(p * measured([np.log(new)], [np.log(p)])["staleness_kl"] for p, new in zip(b, q, strict=True))
    assert expected == pytest.approx((b * np.log(b / q)).sum())


def test_a_token_far_from_its_policy_leaves_the_columns_finite() -> None:
    columns = measured([-1.0, -1.0], [-1.0, -300.0])
    assert all(np.isfinite(value) for value in columns.values() if value is not None)
    assert columns["clipped_share"] == 0.5
    assert is_stale(columns, 1e9)
