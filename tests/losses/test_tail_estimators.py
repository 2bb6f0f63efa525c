"""Tail estimators, compared with the divergence over the whole vocabulary in float64."""

import inspect
import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import DIVERGENCES
from pipeline.losses.objective import TAIL_ESTIMATORS, batch_loss, tail_estimator_of
from pipeline.store.codecs import CODECS
from tests.loss_cases import (
    dense,
    identity,
    loss_and_gradient,
    many_rows,
    objective,
    pair,
    random_logits,
    support,
    teacher_rows,
)
from tests.scores import entries, with_stats

NAMES = list(DIVERGENCES)
ONLY = {
    "tail_samples": ("forward_kl", "skew_forward_kl"),
    "tail_mean": tuple(name for name in NAMES if name != "forward_kl"),
}
every_divergence = pytest.mark.parametrize("name", NAMES)
VOCAB = 9
_TEACHER_TV, _STUDENT_TV, _POLICY_TV = (random_logits(1, VOCAB, seed=seed, spread=1.2) for seed in (0, 1, 2))
_LIKELY = [3, 4]  # what the author recorded


def sampled_row(token: int, temperature: float = 1.0, *, policy_TV: Tensor = _POLICY_TV, **changes: Any) -> TeacherRows:
    """Return the row of a position at which the sampling policy sampled this token."""
    behaviour = policy_TV.log_softmax(-1)[0, token].item()
    scored = pair(_TEACHER_TV, [token], support(), support_ids=[_LIKELY], behaviour=[behaviour])
    return teacher_rows([(replace(scored[0], **changes), scored[1])], temperature)


def expectation(name: str, estimator: str, temperature: float, policy_TV: Tensor) -> tuple[float, Tensor]:
    """Return value and gradient in expectation over the tokens that the policy can sample."""
    p = objective(name, tail_estimator=estimator, temperature=temperature)
    value, gradient = 0.0, torch.zeros(1, VOCAB, dtype=torch.float64)
    for token, b in enumerate(policy_TV.softmax(-1)[0].tolist()):
        token_value, found_gradient = loss_and_gradient(
            p, _STUDENT_TV, sampled_row(token, temperature, policy_TV=policy_TV)
        )
        value, gradient = value + b * token_value, gradient + b * found_gradient
    return value, gradient


def test_the_example_row_has_tokens_of_every_kind() -> None:
    marked = [bool(sampled_row(token).stored_only_because_sampled_N) for token in range(VOCAB)]
    assert 2 <= sum(marked) < VOCAB - 3
    assert not any(marked[token] for token in _LIKELY)
    stored = {token: set(sampled_row(token).ids_NK[0].tolist()) - {token} for token in range(VOCAB)}
    assert len({frozenset(ids) for token, ids in stored.items() if marked[token]}) == 1


@every_divergence
@pytest.mark.parametrize("estimator", ["residual", "sampled"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("stale", [False, True])
def test_the_expectation_over_sampled_tokens_is_the_dense_divergence(
    name: str, estimator: str, temperature: float, stale: bool
) -> None:
    """Value and gradient are enumerated exactly, for samples of the student and of an older student."""
    policy_TV = _POLICY_TV if stale else _STUDENT_TV
    value, gradient = expectation(name, estimator, temperature, policy_TV)
    expected, expected_gradient = dense(objective(name, temperature=temperature), _TEACHER_TV, _STUDENT_TV)
    assert value == pytest.approx(expected, abs=2e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-6


@every_divergence
def test_the_residual_is_what_the_bucket_lacks(name: str) -> None:
    """The expectation of the bucket alone is biased, so the test above can fail."""
    _, gradient = expectation(name, "bucket", 1.0, _POLICY_TV)
    _, expected = dense(objective(name), _TEACHER_TV, _STUDENT_TV)
    assert (gradient - expected).abs().max() > 1e-3


def test_a_token_that_the_teacher_sampled_corrects_the_bucket() -> None:
    """In teacher completions b is the teacher's own recorded probability."""
    value, gradient = 0.0, torch.zeros(1, VOCAB, dtype=torch.float64)
    for token, b in enumerate(_TEACHER_TV.softmax(-1)[0].tolist()):
        rows = sampled_row(token, policy_TV=_TEACHER_TV, source="teacher")
        assert torch.isnan(rows.behaviour_logp_N).all()
        result = loss_and_gradient(objective("jsd", tail_estimator="residual"), _STUDENT_TV, rows)
        value, gradient = value + b * result[0], gradient + b * result[1]
    expected, expected_gradient = dense(objective("jsd"), _TEACHER_TV, _STUDENT_TV)
    assert value == pytest.approx(expected, abs=2e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-6


@every_divergence
@pytest.mark.parametrize("estimator", ["residual", "sampled", "tail_mean"])
def test_references_have_no_sampling_log_prob_and_use_the_bucket(name: str, estimator: str) -> None:
    if name not in ONLY.get(estimator, NAMES):
        return
    rows = sampled_row(0, source="dataset", behaviour_logp=[])
    result = loss_and_gradient(objective(name, tail_estimator=estimator), _STUDENT_TV, rows)
    bucket = loss_and_gradient(objective(name), _STUDENT_TV, rows)
    assert result[0] == bucket[0]
    assert torch.equal(result[1], bucket[1])


def test_sampled_reverse_kl_is_the_policy_gradient_of_log_p_less_log_q() -> None:
    """k1: under the sampling policy itself the gradient is (log q - log p) grad log q."""
    p, token = objective("reverse_kl", tail_estimator="sampled"), 5
    value, gradient = loss_and_gradient(p, _STUDENT_TV, sampled_row(token, policy_TV=_STUDENT_TV))
    logp_V, logq_V = _TEACHER_TV.log_softmax(-1)[0], _STUDENT_TV.log_softmax(-1)[0]
    cost = (logq_V[token] - logp_V[token]).item()
    expected = cost * (torch.eye(VOCAB, dtype=torch.float64)[token] - logq_V.exp())
    assert value == pytest.approx(cost, abs=1e-6)
    assert (gradient[0] - expected).abs().max() < 1e-6


# The tail mean


with_tail_mean = pytest.mark.parametrize("name", ONLY["tail_mean"])
with_smooth_tail_mean = pytest.mark.parametrize(
    "name", [name for name in ONLY["tail_mean"] if name != "tvd"]
)  # a step where q = p


def tail_mean_row(
    student_TV: Tensor,
    *,
    g: float | None = None,
    behaviour: float | None = None,
    teacher_TV: Tensor = _TEACHER_TV,
    **changes: Any,
) -> TeacherRows:
    """Return a row sampled by this student, with the exact tail mean or another one."""
    logq_V, logp_V = student_TV.log_softmax(-1)[0], teacher_TV.log_softmax(-1)[0]
    behaviour = logq_V[0].item() if behaviour is None else behaviour
    rollout, scores = pair(teacher_TV, [0], support(threshold=0.2), support_ids=[_LIKELY], behaviour=[behaviour])
    outside = sorted(set(range(VOCAB)) - {*scores.top.ids.tolist(), *scores.student.ids.tolist()})
    exact = (logq_V[outside].softmax(-1) * logp_V[outside]).sum().item()
    scores = with_stats(scores, tail_mean_N=np.array([exact if g is None else g], np.float32))
    return teacher_rows([(replace(rollout, **changes), scores)])


def others(rows: TeacherRows) -> list[int]:
    return sorted(set(range(VOCAB)) - set(rows.ids_NK[0].tolist()))


def test_tail_mean_gives_reverse_kl_its_dense_value_and_its_dense_gradient_outside_the_tail() -> None:
    rows = tail_mean_row(_STUDENT_TV)
    value, gradient = loss_and_gradient(objective("reverse_kl", tail_estimator="tail_mean"), _STUDENT_TV, rows)
    expected, dense_gradient = dense(objective("reverse_kl"), _TEACHER_TV, _STUDENT_TV)
    outside = others(rows)
    inside = rows.ids_NK[0]
    assert len(outside) > 2
    assert value == pytest.approx(expected, abs=1e-6)
    assert (gradient[0, inside] - dense_gradient[0, inside]).abs().max() < 1e-6
    assert gradient[0, outside].sum() == pytest.approx(dense_gradient[0, outside].sum().item(), abs=1e-6)
    bucket = loss_and_gradient(objective("reverse_kl"), _STUDENT_TV, rows)
    assert bucket[0] < expected - 0.01
    assert (bucket[1][0, inside] - dense_gradient[0, inside]).abs().max() > 1e-3


@with_smooth_tail_mean
def test_tail_mean_has_no_gradient_where_the_student_equals_its_teacher(name: str) -> None:
    value, gradient = loss_and_gradient(
        objective(name, tail_estimator="tail_mean"), _TEACHER_TV, tail_mean_row(_TEACHER_TV)
    )
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@with_tail_mean
def test_tail_mean_is_dense_where_log_ratios_are_normal_over_the_tail(name: str) -> None:
    """Two tokens are stored, and the student gives equal probability to 4,000 others: half of its mass."""
    count = 4000
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    ratio = 1.5 + 1.5 * torch.special.ndtri(ranks)
    tail_p = 0.5 / count * (-ratio).exp()
    teacher_TV = torch.cat([torch.tensor([0.9, 0.1]) * (1 - tail_p.sum()), tail_p]).log()[None]
    student_TV = torch.cat([torch.tensor([0.2, 0.3]), torch.full((count,), 0.5 / count)]).log()[None].double()
    rollout, scores = pair(teacher_TV, [0], support(threshold=0.03), behaviour=[float(np.log(0.2))])
    g = teacher_TV[0, 2:].mean().item()
    rows = teacher_rows([(rollout, with_stats(scores, tail_mean_N=np.array([g], np.float32)))])
    assert len(rows.ids_NK[0]) == 2
    expected, dense_gradient = dense(objective(name), teacher_TV, student_TV)
    value, gradient = loss_and_gradient(objective(name, tail_estimator="tail_mean"), student_TV, rows)
    bucket, bucket_gradient = loss_and_gradient(objective(name), student_TV, rows)
    close, better = (0.05, 0.4) if name == "tvd" else (0.004, 0.15)  # nodes see a step coarsely
    assert abs(value - expected) < min(close * expected, better * (expected - bucket))
    error, lacking = (
        (gradient_NV[0, :2] - dense_gradient[0, :2]).norm() for gradient_NV in (gradient, bucket_gradient)
    )
    assert error < min(close * dense_gradient[0, :2].norm(), better * lacking)


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(20))
def test_the_slope_of_jsd_in_the_tail_and_its_estimate_are_between_two_bounds(beta: float, seed: int) -> None:
    """The bounds are the slope of the bucket and the slope at the mean log-ratio."""
    teacher_TV, student_TV = (3 * random_logits(1, VOCAB, seed=each_seed) for each_seed in (2 * seed, 2 * seed + 1))
    rows = tail_mean_row(student_TV, teacher_TV=teacher_TV)
    inside, outside = rows.ids_NK[0].unique(), others(rows)
    logp_V, logq_V = teacher_TV.log_softmax(-1)[0], student_TV.log_softmax(-1)[0]
    p = objective("jsd")
    p = replace(p, divergence=replace(p.divergence, beta=beta))
    slope = DIVERGENCES["jsd"](p.divergence).slope
    q_V, q_t = logq_V.exp(), logq_V[outside].exp().sum()
    spent = (q_V * slope(logp_V, logq_V))[inside].sum()

    def in_tail(gradient: Tensor) -> float:
        """f' of the tail's mass, from the gradient of its logits."""
        return ((gradient[0, outside].sum() / q_t + spent) / (1 - q_t)).item()

    bucket = in_tail(loss_and_gradient(p, student_TV, rows)[1])
    estimated = in_tail(loss_and_gradient(replace(p, tail_estimator="tail_mean"), student_TV, rows)[1])
    true = in_tail(dense(p, teacher_TV, student_TV)[1])
    ratio = ((logq_V - logp_V)[outside] * q_V[outside] / q_t).sum()
    above = slope(-ratio, torch.zeros_like(ratio)).item()
    for slope_ in (true, estimated):
        assert bucket - 1e-5 < slope_ < above + 1e-5
    assert above - bucket > 1e-4


@with_smooth_tail_mean
def test_the_noise_of_the_tail_mean_cancels_where_the_bucket_is_exact(name: str) -> None:
    """The student equals its teacher: a tail mean that is too small adds what one that is too large subtracts."""
    exact = tail_mean_row(_TEACHER_TV).tail_mean_N.item()
    low, high = (
        loss_and_gradient(
            objective(name, tail_estimator="tail_mean"), _TEACHER_TV, tail_mean_row(_TEACHER_TV, g=exact + sign * 0.05)
        )
        for sign in (-1, 1)
    )
    assert low[0] > 1e-4
    assert low[0] + high[0] == pytest.approx(0, abs=1e-6)
    assert (low[1] + high[1]).abs().max() < 1e-6


def test_tail_mean_tends_to_the_bucket_as_the_rollout_becomes_stale() -> None:
    now = _STUDENT_TV.log_softmax(-1)[0, 0].item()

    def value(shift: float, staleness: float) -> float:
        rows = tail_mean_row(_STUDENT_TV, behaviour=now - shift)
        return loss_and_gradient(
            objective("reverse_kl", tail_estimator="tail_mean", tail_mean_staleness=staleness), _STUDENT_TV, rows
        )[0]

    exact = loss_and_gradient(
        objective("reverse_kl", tail_estimator="tail_mean"), _STUDENT_TV, tail_mean_row(_STUDENT_TV)
    )[0]
    bucket = loss_and_gradient(objective("reverse_kl"), _STUDENT_TV, tail_mean_row(_STUDENT_TV))[0]
    k3 = np.expm1(0.5) - 0.5
    assert value(0.5, 0.2) == pytest.approx(bucket + np.exp(-k3 / 0.2) * (exact - bucket), abs=1e-6)
    assert value(0.5, 1e-3) == pytest.approx(bucket, abs=1e-6)
    assert value(0.5, 1e9) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("unusable", ["none", "not this round's", "impossible"])
def test_a_row_without_a_usable_tail_mean_has_the_bucket(unusable: str) -> None:
    rows = tail_mean_row(_STUDENT_TV, g={"none": np.nan, "impossible": -np.inf}.get(unusable))
    if unusable == "not this round's":
        rows = replace(rows, on_policy_N=torch.zeros_like(rows.on_policy_N))
    result = loss_and_gradient(objective("reverse_kl", tail_estimator="tail_mean"), _STUDENT_TV, rows)
    bucket = loss_and_gradient(objective("reverse_kl"), _STUDENT_TV, rows)
    assert result[0] == pytest.approx(bucket[0], abs=1e-12)
    assert (result[1] - bucket[1]).abs().max() < 1e-12


def test_the_mass_outside_counts_with_every_tail_estimator() -> None:
    """For q = (0.6, 0.4), p = (0.9, 0.1) and one stored token, truncated sums are negative; the divergence is 0.311."""
    teacher_TV, student_TV = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.6, 0.4]]).log()
    scored = pair(teacher_TV, [0], support(threshold=0.5), behaviour=[float(np.log(0.6))])
    scored = scored[0], with_stats(scored[1], tail_mean_N=np.array([np.log(0.1)], np.float32))
    for name in ("bucket", "tail_mean", "residual"):
        value, gradient = loss_and_gradient(
            objective("reverse_kl", tail_estimator=name), student_TV, teacher_rows([scored])
        )
        assert value == pytest.approx(0.311, abs=5e-4)
        assert gradient[0, 1] > 0.1  # descent takes mass from the token that is not stored


# All combinations


every_combination = pytest.mark.parametrize(
    ("name", "estimator"),
    [
        (name, estimator)
        for name, estimator in itertools.product(NAMES, ("bucket", "tail_samples", "tail_mean", "residual", "sampled"))
        if name in ONLY.get(estimator, NAMES)
    ],
)


@every_combination
def test_chunks_in_float32_are_the_whole_in_float64(name: str, estimator: str) -> None:
    """The mean over tokens and its gradient agree to 1e-6."""
    rows, hidden_ND = many_rows(30, 5)
    p = objective(name, tail_estimator=estimator, chunk_tokens=7)
    tokens = len(hidden_ND)
    values = {field.name: getattr(rows, field.name) for field in fields(rows)}
    wide = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
    in_double = TeacherRows(**wide)
    chunked = loss_and_gradient(p, (hidden_ND / 1).float(), rows)
    whole = loss_and_gradient(replace(p, chunk_tokens=1000), hidden_ND, in_double)
    assert chunked[0] / tokens == pytest.approx(whole[0] / tokens, rel=1e-6, abs=1e-6)
    assert (chunked[1] - whole[1]).abs().max() / tokens < 1e-6


@every_combination
def test_the_gradient_is_the_derivative_of_the_value(name: str, estimator: str) -> None:
    """Compare with finite differences in float64. Estimators with weights that are held constant have no such value."""
    if estimator in ("tail_mean", "residual", "sampled"):
        return
    rows, student_NV = many_rows(12, 2)
    p = objective(name, tail_estimator=estimator)
    _, gradient = loss_and_gradient(p, student_NV, rows)
    step = 1e-5 * random_logits(*student_NV.shape, seed=9)  # type: ignore[misc]
    up, down = (loss_and_gradient(p, student_NV + sign * step, rows)[0] for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx((gradient * step).sum().item(), rel=1e-4)


# Random sampling knowledge distillation


def test_forward_kl_from_sample_counts_has_the_gradient_of_the_samples() -> None:
    """The count that rskd stores instead of a probability changes the value and not the gradient."""
    codec, ranks = CODECS["rskd"], np.arange(VOCAB)
    p = objective("forward_kl", tail_estimator="tail_samples")
    total, weight = torch.zeros(1, VOCAB, dtype=torch.float64), 0.0
    rollout, scores = pair(_TEACHER_TV, [0], support(threshold=0.2), support_ids=[[3]])
    p_V = _TEACHER_TV.softmax(-1)[0]
    tail = [token for token in range(VOCAB) if token not in scores.top.ids]
    share = p_V[tail] / p_V[tail].sum()
    assert len(tail) > 4
    for drawn in itertools.product(range(len(tail)), repeat=2):
        ids = np.array([tail[index] for index in drawn], np.int32)
        logp = _TEACHER_TV.log_softmax(-1)[0, ids].float().numpy()
        with_tail_samples = replace(scores, tail_samples=entries([ids], logp))
        decoded = codec.decode(codec.encode(with_tail_samples, ranks), ranks)
        assert sorted(decoded.tail_samples.ids.tolist()) == sorted(ids.tolist())
        true_logp = _TEACHER_TV.log_softmax(-1)[0, decoded.tail_samples.ids].float().numpy()
        true = replace(decoded, tail_samples=replace(decoded.tail_samples, logp=true_logp))
        from_counts, known = (
            loss_and_gradient(p, _STUDENT_TV, teacher_rows([(rollout, each_scores)])) for each_scores in (decoded, true)
        )
        assert (from_counts[1] - known[1]).abs().max() < 1e-6
        chance = (share[drawn[0]] * share[drawn[1]]).item()
        total, weight = total + chance * from_counts[1], weight + chance
    assert weight == pytest.approx(1)
    _, expected = dense(objective("forward_kl"), _TEACHER_TV, _STUDENT_TV)
    _, bucket = loss_and_gradient(objective("forward_kl"), _STUDENT_TV, teacher_rows([(rollout, scores)]))
    assert (total - expected).abs().max() < 0.02  # a byte a probability
    assert (bucket - expected).abs().max() > 0.05


# Defaults


@pytest.mark.parametrize("name", TAIL_ESTIMATORS)
def test_every_tail_estimator_states_its_status_and_source(name: Any) -> None:
    rule: Any = TAIL_ESTIMATORS[name](objective())
    said = inspect.getdoc(getattr(rule, "func", rule)) or ""
    assert "Status:" in said
    assert "Source:" in said


def test_auto_depends_on_divergence_and_temperature() -> None:
    estimators = {name: tail_estimator_of(objective(name, tail_estimator="auto")) for name in NAMES}
    assert estimators == {
        "forward_kl": "tail_samples",
        "reverse_kl": "tail_mean",
        "jsd": "tail_mean",
        "skew_forward_kl": "tail_samples",
        "skew_reverse_kl": "tail_mean",
        "tvd": "tail_mean",
    }
    assert tail_estimator_of(objective("reverse_kl", tail_estimator="auto", temperature=2.0)) == "bucket"


def test_the_entropy_is_computed_only_for_the_tail_mean() -> None:
    rows = sampled_row(0)
    hidden_ND = _STUDENT_TV.clone().requires_grad_()
    entropies: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            entropies.append("entr" in str(func))
            return func(*args, **(kwargs or {}))

    for name, expected in (("bucket", False), ("tail_mean", True)):
        entropies.clear()
        with Watch():
            p = objective("reverse_kl", tail_estimator=name)
            batch_loss(p, identity(_STUDENT_TV), hidden_ND, rows, behaviour_temperature=1.0)
        assert any(entropies) == expected
