"""The supports against the divergence over the whole vocabulary, which these tests compute in float64."""

import inspect
import itertools
from dataclasses import replace
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
    "tail_mean": tuple(one for one in NAMES if one != "forward_kl"),
}
every_divergence = pytest.mark.parametrize("name", NAMES)
VOCAB = 9
_TEACHER_TV, _STUDENT_TV, _AUTHOR_TV = (random_logits(1, VOCAB, seed=seed, spread=1.2) for seed in (0, 1, 2))
_LIKELY = [3, 4]  # what the author recorded


def realised(token: int, temperature: float = 1.0, *, author_TV: Tensor = _AUTHOR_TV, **changes: Any) -> TeacherRows:
    """The row of a position at which its author drew this token."""
    behaviour = author_TV.log_softmax(-1)[0, token].item()
    one = pair(_TEACHER_TV, [token], support(), support_ids=[_LIKELY], behaviour=[behaviour])
    return teacher_rows([(replace(one[0], **changes), one[1])], temperature)


def expectation(name: str, support_name: str, temperature: float, author_TV: Tensor) -> tuple[float, Tensor]:
    """Value and gradient on average over the tokens that the author could have drawn."""
    p = objective(name, tail_estimator=support_name, temperature=temperature)
    value, gradient = 0.0, torch.zeros(1, VOCAB, dtype=torch.float64)
    for token, b in enumerate(author_TV.softmax(-1)[0].tolist()):
        found, found_gradient = loss_and_gradient(p, _STUDENT_TV, realised(token, temperature, author_TV=author_TV))
        value, gradient = value + b * found, gradient + b * found_gradient
    return value, gradient


def test_the_row_of_these_tests_has_tokens_of_every_kind() -> None:
    marked = [bool(realised(token).stored_only_because_sampled_N) for token in range(VOCAB)]
    assert 2 <= sum(marked) < VOCAB - 3
    assert not any(marked[token] for token in _LIKELY)
    stored = {token: set(realised(token).ids_NK[0].tolist()) - {token} for token in range(VOCAB)}
    assert len({frozenset(ids) for token, ids in stored.items() if marked[token]}) == 1


@every_divergence
@pytest.mark.parametrize("support_name", ["residual", "sampled"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("stale", [False, True])
def test_what_the_realised_token_says_is_the_dense_divergence_on_average(
    name: str, support_name: str, temperature: float, stale: bool
) -> None:
    """Exactly enumerated, value and gradient, whether the student or an older one drew the token."""
    author_TV = _AUTHOR_TV if stale else _STUDENT_TV
    value, gradient = expectation(name, support_name, temperature, author_TV)
    expected, expected_gradient = dense(objective(name, temperature=temperature), _TEACHER_TV, _STUDENT_TV)
    assert value == pytest.approx(expected, abs=2e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-6


@every_divergence
def test_the_residual_is_what_the_bucket_lacks(name: str) -> None:
    """Without it the same average is off, so the test above could fail."""
    _, gradient = expectation(name, "bucket", 1.0, _AUTHOR_TV)
    _, expected = dense(objective(name), _TEACHER_TV, _STUDENT_TV)
    assert (gradient - expected).abs().max() > 1e-3


def test_a_token_that_the_teacher_drew_corrects_as_well() -> None:
    """The corpus: b is the teacher's own probability, as it was recorded."""
    value, gradient = 0.0, torch.zeros(1, VOCAB, dtype=torch.float64)
    for token, b in enumerate(_TEACHER_TV.softmax(-1)[0].tolist()):
        rows = realised(token, author_TV=_TEACHER_TV, source="teacher")
        assert torch.isnan(rows.behaviour_logp_N).all()
        found = loss_and_gradient(objective("jsd", tail_estimator="residual"), _STUDENT_TV, rows)
        value, gradient = value + b * found[0], gradient + b * found[1]
    expected, expected_gradient = dense(objective("jsd"), _TEACHER_TV, _STUDENT_TV)
    assert value == pytest.approx(expected, abs=2e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-6


@every_divergence
@pytest.mark.parametrize("support_name", ["residual", "sampled", "tail_mean"])
def test_the_data_set_has_no_probability_of_its_tokens_and_takes_the_bucket(name: str, support_name: str) -> None:
    if name not in ONLY.get(support_name, NAMES):
        return
    rows = realised(0, source="dataset", behaviour_logp=[])
    found = loss_and_gradient(objective(name, tail_estimator=support_name), _STUDENT_TV, rows)
    bucket = loss_and_gradient(objective(name), _STUDENT_TV, rows)
    assert found[0] == bucket[0]
    assert torch.equal(found[1], bucket[1])


def test_sampled_reverse_kl_is_the_policy_gradient_of_log_p_less_log_q() -> None:
    """k1: at the author itself, (log q - log p) grad log q."""
    p, token = objective("reverse_kl", tail_estimator="sampled"), 5
    value, gradient = loss_and_gradient(p, _STUDENT_TV, realised(token, author_TV=_STUDENT_TV))
    logp_V, logq_V = _TEACHER_TV.log_softmax(-1)[0], _STUDENT_TV.log_softmax(-1)[0]
    cost = (logq_V[token] - logp_V[token]).item()
    expected = cost * (torch.eye(VOCAB, dtype=torch.float64)[token] - logq_V.exp())
    assert value == pytest.approx(cost, abs=1e-6)
    assert (gradient[0] - expected).abs().max() < 1e-6


# G


with_g = pytest.mark.parametrize("name", ONLY["tail_mean"])
with_g_smoothly = pytest.mark.parametrize(
    "name", [one for one in ONLY["tail_mean"] if one != "tvd"]
)  # a step where q = p


def g_row(
    student_TV: Tensor,
    *,
    g: float | None = None,
    behaviour: float | None = None,
    teacher_TV: Tensor = _TEACHER_TV,
    **changes: Any,
) -> TeacherRows:
    """A row whose author is this student, with the exact G of its tail or another."""
    logq_V, logp_V = student_TV.log_softmax(-1)[0], teacher_TV.log_softmax(-1)[0]
    behaviour = logq_V[0].item() if behaviour is None else behaviour
    rollout, scores = pair(teacher_TV, [0], support(threshold=0.2), support_ids=[_LIKELY], behaviour=[behaviour])
    outside = sorted(set(range(VOCAB)) - {*scores.top.ids.tolist(), *scores.student.ids.tolist()})
    exact = (logq_V[outside].softmax(-1) * logp_V[outside]).sum().item()
    scores = with_stats(scores, tail_mean_N=np.array([exact if g is None else g], np.float32))
    return teacher_rows([(replace(rollout, **changes), scores)])


def others(rows: TeacherRows) -> list[int]:
    return sorted(set(range(VOCAB)) - set(rows.ids_NK[0].tolist()))


def test_g_gives_reverse_kl_its_dense_value_and_the_dense_gradient_but_within_the_tail() -> None:
    rows = g_row(_STUDENT_TV)
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


@with_g_smoothly
def test_with_g_a_student_that_equals_its_teacher_stays(name: str) -> None:
    value, gradient = loss_and_gradient(objective(name, tail_estimator="tail_mean"), _TEACHER_TV, g_row(_TEACHER_TV))
    assert value == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@with_g
def test_g_gives_the_dense_divergence_where_log_ratios_are_normal_over_the_tail(name: str) -> None:
    """Two tokens stored, and 4,000 that the student finds equally likely: half of all, a third for the teacher."""
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
    found, lacking = ((one[0, :2] - dense_gradient[0, :2]).norm() for one in (gradient, bucket_gradient))
    assert found < min(close * dense_gradient[0, :2].norm(), better * lacking)


@pytest.mark.parametrize("beta", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", range(20))
def test_the_slope_of_jsd_in_the_tail_lies_between_two_bounds_and_so_does_what_g_makes_of_it(
    beta: float, seed: int
) -> None:
    """However the tail is spread: the bucket's below, that at the mean log-ratio above."""
    teacher_TV, student_TV = (3 * random_logits(1, VOCAB, seed=one) for one in (2 * seed, 2 * seed + 1))
    rows = g_row(student_TV, teacher_TV=teacher_TV)
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
    found = in_tail(loss_and_gradient(replace(p, tail_estimator="tail_mean"), student_TV, rows)[1])
    true = in_tail(dense(p, teacher_TV, student_TV)[1])
    ratio = ((logq_V - logp_V)[outside] * q_V[outside] / q_t).sum()
    above = slope(-ratio, torch.zeros_like(ratio)).item()
    for one in (true, found):
        assert bucket - 1e-5 < one < above + 1e-5
    assert above - bucket > 1e-4


@with_g_smoothly
def test_the_noise_of_g_cancels_where_the_bucket_is_right(name: str) -> None:
    """A student that equals its teacher: what draws make too small a G adds, what they make too large takes away."""
    exact = g_row(_TEACHER_TV).tail_mean_N.item()
    low, high = (
        loss_and_gradient(
            objective(name, tail_estimator="tail_mean"), _TEACHER_TV, g_row(_TEACHER_TV, g=exact + sign * 0.05)
        )
        for sign in (-1, 1)
    )
    assert low[0] > 1e-4
    assert low[0] + high[0] == pytest.approx(0, abs=1e-6)
    assert (low[1] + high[1]).abs().max() < 1e-6


def test_g_gives_way_to_the_bucket_as_the_rollout_ages() -> None:
    now = _STUDENT_TV.log_softmax(-1)[0, 0].item()

    def value(shift: float, staleness: float) -> float:
        rows = g_row(_STUDENT_TV, behaviour=now - shift)
        return loss_and_gradient(
            objective("reverse_kl", tail_estimator="tail_mean", tail_mean_staleness=staleness), _STUDENT_TV, rows
        )[0]

    exact = loss_and_gradient(objective("reverse_kl", tail_estimator="tail_mean"), _STUDENT_TV, g_row(_STUDENT_TV))[0]
    bucket = loss_and_gradient(objective("reverse_kl"), _STUDENT_TV, g_row(_STUDENT_TV))[0]
    k3 = np.expm1(0.5) - 0.5
    assert value(0.5, 0.2) == pytest.approx(bucket + np.exp(-k3 / 0.2) * (exact - bucket), abs=1e-6)
    assert value(0.5, 1e-3) == pytest.approx(bucket, abs=1e-6)
    assert value(0.5, 1e9) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("unusable", ["none", "not this round's", "impossible"])
def test_without_a_g_of_its_own_a_row_has_the_bucket(unusable: str) -> None:
    rows = g_row(_STUDENT_TV, g={"none": np.nan, "impossible": -np.inf}.get(unusable))
    if unusable == "not this round's":
        rows = replace(rows, on_policy_N=torch.zeros_like(rows.on_policy_N))
    found = loss_and_gradient(objective("reverse_kl", tail_estimator="tail_mean"), _STUDENT_TV, rows)
    bucket = loss_and_gradient(objective("reverse_kl"), _STUDENT_TV, rows)
    assert found[0] == pytest.approx(bucket[0], abs=1e-12)
    assert (found[1] - bucket[1]).abs().max() < 1e-12


def test_the_mass_outside_counts_with_every_support() -> None:
    """q = (.6, .4), p = (.9, .1), one token stored: truncated sums give less than nothing, the truth is .311."""
    teacher_TV, student_TV = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.6, 0.4]]).log()
    one = pair(teacher_TV, [0], support(threshold=0.5), behaviour=[float(np.log(0.6))])
    one = one[0], with_stats(one[1], tail_mean_N=np.array([np.log(0.1)], np.float32))
    for name in ("bucket", "tail_mean", "residual"):
        value, gradient = loss_and_gradient(
            objective("reverse_kl", tail_estimator=name), student_TV, teacher_rows([one])
        )
        assert value == pytest.approx(0.311, abs=5e-4)
        assert gradient[0, 1] > 0.1  # descent takes mass from the token that is not stored


# Everything at once


every_combination = pytest.mark.parametrize(
    ("name", "support_name"),
    [
        (name, one)
        for name, one in itertools.product(NAMES, ("bucket", "tail_samples", "tail_mean", "residual", "sampled"))
        if name in ONLY.get(one, NAMES)
    ],
)


@every_combination
def test_chunks_in_float32_are_the_whole_in_float64(name: str, support_name: str) -> None:
    """Mean value, and gradient of a mean over tokens, to 1e-6."""
    rows, hidden_ND = many_rows(30, 5)
    p = objective(name, tail_estimator=support_name, chunk_tokens=7)
    tokens = len(hidden_ND)
    wide = [one.double() if isinstance(one, Tensor) and one.is_floating_point() else one for one in vars_of(rows)]
    in_double = type(rows)(**dict(zip(rows.__slots__, wide, strict=True)))
    found = loss_and_gradient(p, (hidden_ND / 1).float(), rows)
    whole = loss_and_gradient(replace(p, chunk_tokens=1000), hidden_ND, in_double)
    assert found[0] / tokens == pytest.approx(whole[0] / tokens, rel=1e-6, abs=1e-6)
    assert (found[1] - whole[1]).abs().max() / tokens < 1e-6


def vars_of(rows: TeacherRows) -> list[Any]:
    return [getattr(rows, name) for name in rows.__slots__]


@every_combination
def test_the_gradient_is_the_slope_of_the_value_where_nothing_is_held(name: str, support_name: str) -> None:
    """By finite differences in float64; supports that weigh with numbers they hold fixed have no such value."""
    if support_name in ("tail_mean", "residual", "sampled"):
        return
    rows, student_NV = many_rows(12, 2)
    p = objective(name, tail_estimator=support_name)
    _, gradient = loss_and_gradient(p, student_NV, rows)
    step = 1e-5 * random_logits(*student_NV.shape, seed=9)  # type: ignore[misc]
    up, down = (loss_and_gradient(p, student_NV + sign * step, rows)[0] for sign in (1, -1))
    assert (up - down) / 2 == pytest.approx((gradient * step).sum().item(), rel=1e-4)


# Random sampling knowledge distillation


def test_forward_kl_from_multiplicities_has_the_gradient_of_the_draws() -> None:
    """What rskd stores of a draw instead of its probability moves the value and nothing else."""
    codec, ranks = CODECS["rskd"], np.arange(VOCAB)
    p = objective("forward_kl", tail_estimator="tail_samples")
    total, weight = torch.zeros(1, VOCAB, dtype=torch.float64), 0.0
    rollout, scores = pair(_TEACHER_TV, [0], support(threshold=0.2), support_ids=[[3]])
    p_V = _TEACHER_TV.softmax(-1)[0]
    tail = [token for token in range(VOCAB) if token not in scores.top.ids]
    share = p_V[tail] / p_V[tail].sum()
    assert len(tail) > 4
    for drawn in itertools.product(range(len(tail)), repeat=2):
        ids = np.array([tail[one] for one in drawn], np.int32)
        logp = _TEACHER_TV.log_softmax(-1)[0, ids].float().numpy()
        with_draws = replace(scores, tail_samples=entries([ids], logp))
        decoded = codec.decode(codec.encode(with_draws, ranks), ranks)
        assert sorted(decoded.tail_samples.ids.tolist()) == sorted(ids.tolist())
        true_logp = _TEACHER_TV.log_softmax(-1)[0, decoded.tail_samples.ids].float().numpy()
        true = replace(decoded, tail_samples=replace(decoded.tail_samples, logp=true_logp))
        found, known = (loss_and_gradient(p, _STUDENT_TV, teacher_rows([(rollout, one)])) for one in (decoded, true))
        assert (found[1] - known[1]).abs().max() < 1e-6
        chance = (share[drawn[0]] * share[drawn[1]]).item()
        total, weight = total + chance * found[1], weight + chance
    assert weight == pytest.approx(1)
    _, expected = dense(objective("forward_kl"), _TEACHER_TV, _STUDENT_TV)
    _, bucket = loss_and_gradient(objective("forward_kl"), _STUDENT_TV, teacher_rows([(rollout, scores)]))
    assert (total - expected).abs().max() < 0.02  # a byte a probability
    assert (bucket - expected).abs().max() > 0.05


# Defaults


@pytest.mark.parametrize("name", TAIL_ESTIMATORS)
def test_every_support_says_what_holds_of_it_and_where_it_comes_from(name: Any) -> None:
    rule: Any = TAIL_ESTIMATORS[name](objective())
    said = inspect.getdoc(getattr(rule, "func", rule)) or ""
    assert "Status:" in said
    assert "Source:" in said


def test_auto_takes_what_suits_the_divergence() -> None:
    found = {name: tail_estimator_of(objective(name, tail_estimator="auto")) for name in NAMES}
    assert found == {
        "forward_kl": "tail_samples",
        "reverse_kl": "tail_mean",
        "jsd": "tail_mean",
        "skew_forward_kl": "tail_samples",
        "skew_reverse_kl": "tail_mean",
        "tvd": "tail_mean",
    }
    assert tail_estimator_of(objective("reverse_kl", tail_estimator="auto", temperature=2.0)) == "bucket"


def test_the_entropy_is_not_computed_unless_asked_for() -> None:
    rows = realised(0)
    hidden_ND = _STUDENT_TV.clone().requires_grad_()
    seen: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append("entr" in str(func))
            return func(*args, **(kwargs or {}))

    for name, expected in (("bucket", False), ("tail_mean", True)):
        seen.clear()
        with Watch():
            p = objective("reverse_kl", tail_estimator=name)
            batch_loss(p, identity(_STUDENT_TV), hidden_ND, rows, behaviour_temperature=1.0)
        assert any(seen) == expected
