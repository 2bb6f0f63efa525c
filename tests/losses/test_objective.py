"""The loss from a truncated teacher, compared with the loss from the dense teacher in float64."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses.divergences import DIVERGENCES
from pipeline.losses.objective import batch_loss, check_objective, temperature_column
from pipeline.models.head import Head
from pipeline.runtime.errors import ParameterError
from tests.loss_cases import (
    TEMPERATURES,
    Pair,
    dense,
    identity,
    loss_and_gradient,
    objective,
    pair,
    random_logits,
    support,
    teacher_rows,
)
from tests.scores import entries

NAMES = list(DIVERGENCES)
WITH_TAIL_SAMPLES = ["forward_kl", "skew_forward_kl"]
every_divergence = pytest.mark.parametrize("name", NAMES)


# The other-token bucket


@every_divergence
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("outside", [0, 1])
def test_bucket_is_dense_when_at_most_one_token_is_outside(name: str, temperature: float, outside: int) -> None:
    teacher_TV, student_TV = (random_logits(5, 9, seed=seed) for seed in (0, 1))
    tokens = teacher_TV.argmax(-1).tolist()
    p = objective(name, temperature=temperature)
    rows = teacher_rows([pair(teacher_TV, tokens, support(threshold=0.0, max_entries=9 - outside))], temperature)
    assert rows.ids_NK.shape[1] == 9 - outside
    value, gradient = loss_and_gradient(p, student_TV.float(), rows)
    expected, expected_gradient = dense(p, teacher_TV, student_TV)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-6


@every_divergence
def test_padding_to_the_widest_row_changes_nothing(name: str) -> None:
    """The loss of peaked and flat positions, with and without student-support tokens, is the sum of single losses."""
    p, everything = objective(name), []
    for index, spread in enumerate((0.1, 1.0, 6.0)):
        teacher_TV = random_logits(2, 9, seed=index, spread=spread)
        union = [[1, 2, 3], [4]] if index == 1 else []
        everything.append(pair(teacher_TV, [5, 6], support(), support_ids=union))
    student_NV = random_logits(6, 9, seed=9).float()
    together = teacher_rows(everything)
    assert (together.logp_NK == -torch.inf).any()
    value, gradient = loss_and_gradient(p, student_NV, together)
    alone = [
        loss_and_gradient(p, student_NV[2 * index : 2 * index + 2], teacher_rows([each_pair]))
        for index, each_pair in enumerate(everything)
    ]
    assert value == pytest.approx(sum(loss for loss, _ in alone), abs=1e-6)
    assert (gradient - torch.cat([part for _, part in alone])).abs().max() < 1e-6


@every_divergence
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 2), threshold=st.floats(0.01, 0.9), spread=st.floats(0.1, 8))
def test_bucket_is_a_lower_bound_that_grows_with_the_stored_set(
    name: str, seed: int, threshold: float, spread: float
) -> None:
    teacher_TV, student_TV = (random_logits(1, 9, seed=seed + i, spread=spread) for i in range(2))
    tokens, p = [0], objective(name)
    small = pair(teacher_TV, tokens, support(threshold=threshold))
    large = pair(teacher_TV, tokens, support(threshold=threshold), support_ids=[[1, 2, 3]])
    values = [loss_and_gradient(p, student_TV, teacher_rows([stored]))[0] for stored in (small, large)]
    slack = 1e-6 * (1 + abs(values[1]))  # what float32 rounds in the rows
    assert -slack <= values[0] <= values[1] + slack
    assert values[1] <= dense(p, teacher_TV, student_TV)[0] + slack


def test_the_mass_outside_counts_where_a_truncated_sum_would_be_negative() -> None:
    teacher_TV, student_TV = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.6, 0.4]]).log()
    rows = teacher_rows([pair(teacher_TV, [0], support(threshold=0.5))])
    assert rows.ids_NK.tolist() == [[0]]
    truncated = 0.6 * np.log(0.6 / 0.9)
    value, gradient = loss_and_gradient(objective("reverse_kl"), student_TV, rows)
    assert truncated < 0
    assert value == pytest.approx(0.311, abs=5e-4)
    assert gradient[0, 1] > 0.1  # descent takes mass from the token that is not stored


@every_divergence
def test_student_mass_outside_the_stored_set_is_penalised(name: str) -> None:
    teacher_TV = torch.tensor([[0.9, 0.07, 0.01, 0.01, 0.01]]).log()
    student_TV = torch.tensor([[0.02, 0.02, 0.9, 0.03, 0.03]]).log()
    rows = teacher_rows([pair(teacher_TV, [0], support(threshold=0.5))])
    _, gradient = loss_and_gradient(objective(name), student_TV, rows)
    assert gradient[0, 0] < 0 < gradient[0, 2]


def test_many_digits_of_a_tiny_student_tail_survive() -> None:
    """1 - sum q over the stored tokens would be 0 in float32 here."""
    teacher_TV = torch.tensor([[0.0, 0.0, -4.0, -4.0]])
    student_TV = torch.tensor([[20.0, 20.0, 0.0, 0.0]])
    p = objective()
    value, gradient = loss_and_gradient(p, student_TV, teacher_rows([pair(teacher_TV, [0], support())]))
    expected, expected_gradient = dense(p, teacher_TV, student_TV)
    assert value == pytest.approx(expected, rel=1e-5)  # the two tails have one shape, so the bucket loses nothing
    assert (gradient - expected_gradient).abs().max() < 1e-6


# Tail samples

_TEACHER_TV = torch.tensor([[0.45, 0.25, 0.12, 0.09, 0.06, 0.03]], dtype=torch.float64).log()
_STUDENT_TV = random_logits(1, 6, seed=5)
_TAIL = (2, 3, 4, 5)


def with_tail_samples(bare: Pair, ids: Sequence[int]) -> Pair:
    """Return the scores of a single position with these tail samples."""
    logp = _TEACHER_TV[0, list(ids)].numpy().astype(np.float32)
    return bare[0], replace(bare[1], tail_samples=entries([ids], logp))


@pytest.mark.parametrize("union", [[], [3], [3, 2], [2, 3, 4], [2, 3, 4, 5]])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("name", [*WITH_TAIL_SAMPLES, "jsd"])
def test_the_expectation_over_tail_samples_is_the_dense_divergence(
    name: str, m: int, temperature: float, union: list[int]
) -> None:
    """Samples come from the tail at temperature 1 outside the top tokens; they may be student-support tokens.

    It holds for jsd too, for which tail samples are refused because of their variance.
    """
    p = objective(name, tail_estimator="tail_samples", temperature=temperature)
    base = pair(_TEACHER_TV, [0], support(threshold=0.2), support_ids=[union])
    tail_p = _TEACHER_TV[0, list(_TAIL)].exp()
    chance = dict(zip(_TAIL, (tail_p / tail_p.sum()).tolist(), strict=True))
    mean, mean_gradient, certainty = 0.0, torch.zeros_like(_STUDENT_TV), 0.0
    for ids in itertools.product(_TAIL, repeat=m):
        rows = teacher_rows([with_tail_samples(base, ids)], temperature)
        value, gradient = loss_and_gradient(p, _STUDENT_TV, rows)
        weight = np.prod([chance[token] for token in ids])
        mean, mean_gradient, certainty = mean + weight * value, mean_gradient + weight * gradient, certainty + weight
    expected, expected_gradient = dense(p, _TEACHER_TV, _STUDENT_TV)
    assert certainty == pytest.approx(1)
    assert mean == pytest.approx(expected, abs=1e-6)
    assert (mean_gradient - expected_gradient).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_tail_samples_and_bucket_are_mixed_by_the_bucketed_divergence(scale: float) -> None:
    rows = teacher_rows([with_tail_samples(pair(_TEACHER_TV, [0], support(threshold=0.2)), [2, 5])])
    bucket, bucket_gradient = loss_and_gradient(objective(), _STUDENT_TV, rows)
    drawn, drawn_gradient = loss_and_gradient(objective(tail_estimator="tail_samples"), _STUDENT_TV, rows)
    share = 1 - np.exp(-bucket / scale)
    assert 0.1 < share <= 1
    value, gradient = loss_and_gradient(
        objective(tail_estimator="tail_samples", tail_samples_scale=scale), _STUDENT_TV, rows
    )
    assert value == pytest.approx(share * drawn + (1 - share) * bucket, rel=1e-6)
    assert (gradient - share * drawn_gradient - (1 - share) * bucket_gradient).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_row_without_tail_samples_uses_the_bucket(scale: float) -> None:
    rows = teacher_rows([pair(_TEACHER_TV, [0], support(threshold=0.2))])
    drawn, bucket = (
        loss_and_gradient(objective(tail_estimator=on, tail_samples_scale=scale), _STUDENT_TV, rows)
        for on in ("tail_samples", "bucket")
    )
    assert drawn[0] == pytest.approx(bucket[0], abs=1e-12)
    assert torch.equal(drawn[1], bucket[1])


def test_the_bucket_ignores_tail_samples() -> None:
    without = pair(_TEACHER_TV, [0], support(threshold=0.2))
    values = [
        loss_and_gradient(objective(), _STUDENT_TV, teacher_rows([each_pair]))[0]
        for each_pair in (without, with_tail_samples(without, [4, 4]))
    ]
    assert values[0] == values[1]


def test_rows_with_and_without_tail_samples_share_a_batch() -> None:
    p, bare = objective(tail_estimator="tail_samples"), pair(_TEACHER_TV, [0], support(threshold=0.2))
    pairs = [with_tail_samples(bare, [2, 5, 5]), bare, with_tail_samples(bare, [3])]
    value, gradient = loss_and_gradient(p, _STUDENT_TV.expand(3, -1), teacher_rows(pairs))
    alone = [loss_and_gradient(p, _STUDENT_TV, teacher_rows([each_pair])) for each_pair in pairs]
    assert value == pytest.approx(sum(loss for loss, _ in alone), abs=1e-6)
    assert (gradient - torch.cat([part for _, part in alone])).abs().max() < 1e-7


def test_a_negative_value_is_not_clamped() -> None:
    """With a sample that is likelier under the student the estimate is negative, and it has a gradient."""
    student_TV = torch.tensor([[0.3, 0.1997, 0.0001, 0.0001, 0.0001, 0.5]], dtype=torch.float64).log()
    rows = teacher_rows([with_tail_samples(pair(_TEACHER_TV, [0], support(threshold=0.2)), [5])])
    value, gradient = loss_and_gradient(objective(tail_estimator="tail_samples"), student_TV, rows)
    expected = 0.45 * np.log(0.45 / 0.3) + 0.25 * np.log(0.25 / 0.1997) + 0.3 * np.log(0.03 / 0.5)
    assert expected < -0.5
    assert value == pytest.approx(expected, abs=1e-6)
    counted = torch.tensor([0.45, 0.25, 0, 0, 0, 0.3], dtype=torch.float64)
    assert (gradient - (student_TV.exp() - counted)).abs().max() < 1e-6


# Chunks, temperature, metrics


@pytest.mark.parametrize("estimator", ["bucket", "tail_samples"])
@pytest.mark.parametrize("chunk_tokens", [1, 3])
def test_chunks_change_nothing(chunk_tokens: int, estimator: str) -> None:
    """The size of chunks affects neither loss and metrics nor gradients of hidden states and head."""
    teacher_TV, hidden_TD = random_logits(8, 30, seed=0), random_logits(8, 4, seed=1)
    rows = teacher_rows([pair(teacher_TV, list(range(8)), support(samples_per_tail=20.0), behaviour=[-1.0] * 8)])
    results = []
    for size in (chunk_tokens, 1000):
        hidden_ND, weight_VD = hidden_TD.clone().requires_grad_(), random_logits(30, 4, seed=2).requires_grad_()
        head = Head(weight_VD=weight_VD, bias_V=None, softcap=None)
        p = objective(tail_estimator=estimator, chunk_tokens=size)
        loss, metrics = batch_loss(p, head, hidden_ND, rows, behaviour_temperature=0.7)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [hidden_ND.grad, weight_VD.grad]
        results.append((loss.item() / 8, gradients, {name: value.item() / 8 for name, value in metrics.items()}))
    (loss, gradients, metrics), (loss_once, gradients_once, metrics_once) = results
    assert loss == pytest.approx(loss_once, abs=1e-12)
    assert metrics == pytest.approx(metrics_once, rel=1e-12)
    for chunked, once in zip(gradients, gradients_once, strict=True):
        assert (chunked - once).abs().max() / 8 < 1e-12  # type: ignore[operator]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_cross_entropy_is_mixed_in_where_no_student_sampled_the_token(share: float) -> None:
    teacher_TV, student_TV = random_logits(3, 9, seed=1), random_logits(3, 9, seed=0)
    p, plain = objective(cross_entropy=share), objective()
    by_student, by_others = (
        teacher_rows([pair(teacher_TV, [0, 1, 2], support(), behaviour=[logp] * 3)]) for logp in (-1.0, float("nan"))
    )
    distance, gradient = loss_and_gradient(plain, student_TV, by_others)
    nll_N = -student_TV.log_softmax(-1)[range(3), range(3)]
    assert loss_and_gradient(p, student_TV, by_student)[0] == pytest.approx(distance)
    value, mixed = loss_and_gradient(p, student_TV, by_others)
    assert value == pytest.approx((1 - share) * distance + share * nll_N.sum().item())
    towards_NV = student_TV.softmax(-1) - torch.eye(3, 9)
    assert (mixed - (1 - share) * gradient - share * towards_NV).abs().max() < 1e-6


def test_temperature_reaches_both_sides() -> None:
    """A student that equals its teacher has zero loss only if both have the same temperature."""
    teacher_TV = random_logits(4, 9, seed=0)
    rows = teacher_rows([pair(teacher_TV, [0, 1, 2, 3], support())], temperature=2.0)
    value, _ = loss_and_gradient(objective(temperature=2.0), teacher_TV, rows)
    mixed, _ = loss_and_gradient(objective(temperature=1.0), teacher_TV, rows)
    assert value == pytest.approx(0, abs=1e-6)
    assert mixed > 0.1


def metrics_of(
    behaviour: list[float], *, temperature: float = 1.0, behaviour_temperature: float | None = 1.0
) -> dict[str, float]:
    rows = teacher_rows([pair(random_logits(3, 9, seed=1), [0, 1, 2], support(), behaviour=behaviour)], temperature)
    now = random_logits(3, 9, seed=0)
    _, metrics = batch_loss(
        objective(temperature=temperature), identity(now), now, rows, behaviour_temperature=behaviour_temperature
    )
    return {name: float(value) for name, value in metrics.items()}


def logp_of(temperature: float) -> list[float]:
    """Return the log-probs of the tokens under the student of `metrics_of` at a temperature."""
    logp: list[float] = (random_logits(3, 9, seed=0) / temperature).log_softmax(-1)[range(3), range(3)].tolist()
    return logp


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("sampled_at", [0.5, 1.0, 1.7])
def test_staleness_is_zero_for_the_sampling_policy_and_k3_for_a_later_student(
    temperature: float, sampled_at: float
) -> None:
    """Staleness is measured at the sampler's temperature, whatever the loss temperature is."""
    now = logp_of(sampled_at)
    fresh = metrics_of(now, temperature=temperature, behaviour_temperature=sampled_at)
    assert fresh["k3_sum"] == pytest.approx(0, abs=1e-12)
    assert (fresh["compared_tokens"], fresh["clipped"]) == (3, 0)
    assert (fresh["ratio_sum"], fresh["ratio_square_sum"]) == pytest.approx((3, 3))
    assert fresh["token_nll_sum"] == pytest.approx(-sum(logp_of(temperature)))
    before = [now[0] + 0.5, now[1] - 0.1, now[2]]
    stale = metrics_of(before, temperature=temperature, behaviour_temperature=sampled_at)
    assert stale["k3_sum"] == pytest.approx((np.exp(-0.5) - 1 + 0.5) + (np.exp(0.1) - 1 - 0.1), rel=1e-5)
    assert stale["ratio_sum"] == pytest.approx(np.exp(-0.5) + np.exp(0.1) + 1)
    assert stale["ratio_square_sum"] == pytest.approx(np.exp(-1) + np.exp(0.2) + 1)
    assert stale["clipped"] == 1


def test_tokens_without_a_sampling_log_prob_have_no_staleness() -> None:
    metrics = metrics_of([float("nan"), -2.0, float("nan")])
    assert metrics["compared_tokens"] == 1
    assert np.isfinite(metrics["k3_sum"])
    assert metrics_of([-1.0] * 3, behaviour_temperature=None)["compared_tokens"] == 0


def test_teacher_tail_metric_is_the_mass_outside() -> None:
    teacher_TV = torch.tensor([[0.6, 0.3, 0.06, 0.04]]).log()
    rows = teacher_rows([pair(teacher_TV, [0], support(threshold=0.2))])
    _, metrics = batch_loss(
        objective(), identity(torch.zeros(1, 4)), torch.zeros(1, 4), rows, behaviour_temperature=None
    )
    assert metrics["teacher_tail_sum"].item() == pytest.approx(0.1, abs=1e-6)


# Errors


@every_divergence
def test_tail_samples_are_refused_for_divergences_with_unbounded_terms(name: str) -> None:
    check_objective(objective(name))
    if name in WITH_TAIL_SAMPLES:
        check_objective(objective(name, tail_estimator="tail_samples"))
        return
    expected = f"objective.tail_estimator: expected tail_samples with no other .* got tail_samples with {name}"
    with pytest.raises(ParameterError, match=expected):
        check_objective(objective(name, tail_estimator="tail_samples"))


def test_a_temperature_that_was_not_scored_is_refused() -> None:
    assert temperature_column(objective(temperature=2.0), TEMPERATURES) == 1
    with pytest.raises(ParameterError, match=r"objective.temperature: expected one of .*\[1.0, 2.0\], got 3.0"):
        temperature_column(objective(temperature=3.0), TEMPERATURES)


def test_a_reward_needs_temperature_one() -> None:
    check_objective(objective(alpha=0.5))
    check_objective(objective(alpha=1.0, temperature=2.0))
    with pytest.raises(
        ParameterError, match=r"objective.temperature: expected 1 when objective.alpha .*, got 2.0; set"
    ):
        check_objective(objective(alpha=0.5, temperature=2.0))
