"""The reward's term: its expected gradient, by enumeration of all completions of a tiny student."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.types import Rollout
from pipeline.losses.batch import TeacherRows
from pipeline.losses.objective import batch_loss
from pipeline.losses.policy_gradient import policy_gradient
from pipeline.runtime.errors import DataError
from pipeline.training.batches import advantages
from tests.factories import batch_params, rollout
from tests.loss_cases import identity, loss_and_gradient, objective, pair, random_logits, support, teacher_rows

VOCAB, EOS = 3, 2
EPSILON = 0.2


def completions() -> Iterator[tuple[int, ...]]:
    """Yield all completions of at most two tokens; the second follows unless the first is eos."""
    yield (EOS,)
    yield from ((first, second) for first in range(EOS) for second in range(VOCAB))


def row_of(prefix: tuple[int, ...]) -> int:
    """Return which of the student's three rows of logits follows a prefix."""
    return 0 if not prefix else 1 + prefix[0]


def token_logps(logits_RV: Tensor, completion: tuple[int, ...]) -> Tensor:
    logp_RV = logits_RV.log_softmax(-1)
    return torch.stack([logp_RV[row_of(completion[:t]), token] for t, token in enumerate(completion)])


REWARDS = dict(zip(completions(), [0.3, 1.0, -2.0, 0.5, 0.0, 4.0, 1.5], strict=True))


def sampled(completion: tuple[int, ...], logps: Tensor, reward: float | None, *, prompt: str = "p") -> Rollout:
    return rollout("x", completion, prompt=[0], prompt_id=prompt, reward=reward, behaviour_logp=logps.tolist())


def expected_gradient(logits_RV: Tensor) -> Tensor:
    """Return the gradient of the expected reward, by autograd through the sum over all completions."""
    leaf = logits_RV.clone().requires_grad_()
    total = torch.stack(
        [REWARDS[completion] * token_logps(leaf, completion).sum().exp() for completion in completions()]
    ).sum()
    return torch.autograd.grad(total, leaf)[0]


def test_a_token_far_from_its_policy_has_finite_gain_and_gradient() -> None:
    logq_N = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    advantage_N = torch.tensor([0.0, 2.0, -2.0])
    gain_N, _ = policy_gradient(logq_N, torch.tensor([-300.0, -300.0, -90.0]), advantage_N, epsilon=EPSILON)
    gain_N.sum().backward()
    assert gain_N[:2].tolist() == pytest.approx([0.0, 2 * (1 + EPSILON)])
    assert torch.isfinite(gain_N).all()
    assert logq_N.grad is not None
    assert torch.isfinite(logq_N.grad).all()


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(reward: float) -> None:
    rollouts = [replace(rollout(name, [1]), reward=value) for name, value in (("a", 1.0), ("b", reward))]
    with pytest.raises(DataError, match=f"reward of b: expected a finite number, got {reward}; mend the reward"):
        advantages(rollouts, batch_params())


@pytest.mark.parametrize("samples", [2, 3])
def test_over_all_rollouts_the_expectation_is_the_gradient_of_the_expected_reward(samples: int) -> None:
    """All groups are enumerated with leave-one-out advantages; the mean of all would give 1 - 1 / n of the gradient."""
    logits_RV = random_logits(3, VOCAB, seed=4)
    found_RV, certainty = torch.zeros_like(logits_RV), 0.0
    for group in itertools.product(completions(), repeat=samples):
        rollouts = [
            sampled(completion, token_logps(logits_RV, completion), REWARDS[completion]) for completion in group
        ]
        chance = torch.stack([token_logps(logits_RV, completion).sum() for completion in group]).sum().exp()
        leaf = logits_RV.clone().requires_grad_()
        logq_N = torch.cat([token_logps(leaf, completion) for completion in group])
        lengths = [len(completion) for completion in group]
        advantage_N = torch.from_numpy(np.repeat(advantages(rollouts, batch_params()).astype(np.float64), lengths))
        gain_N, _ = policy_gradient(logq_N, logq_N.detach(), advantage_N, epsilon=EPSILON)
        found_RV += chance * torch.autograd.grad(gain_N.sum(), leaf)[0] / samples
        certainty += chance.item()
    assert certainty == pytest.approx(1)
    assert (found_RV - expected_gradient(logits_RV)).abs().max() < 1e-6
    assert expected_gradient(logits_RV).abs().max() > 0.1


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 1.5])
def test_a_clipped_token_has_no_gradient(ratio: float, advantage: float) -> None:
    behaviour_N = torch.tensor([-1.0], dtype=torch.float64)
    logq_N = (behaviour_N + np.log(ratio)).requires_grad_()
    gain_N, counts = policy_gradient(logq_N, behaviour_N, torch.tensor([advantage]).double(), epsilon=EPSILON)
    (gradient,) = torch.autograd.grad(gain_N.sum(), logq_N)
    far = ratio > 1 + EPSILON if advantage > 0 else ratio < 1 - EPSILON
    assert gradient.item() == pytest.approx(0.0 if far else ratio * advantage)
    assert (counts["clipped_tokens"].item(), counts["clippable_tokens"].item()) == (far, 1)


def test_tokens_that_no_student_sampled_have_no_gain() -> None:
    logq_N = torch.tensor([-2.0, -200.0, -1.0]).requires_grad_()
    behaviour_N = torch.tensor([torch.nan, torch.nan, -1.0])
    gain_N, counts = policy_gradient(logq_N, behaviour_N, torch.tensor([0.0, 0.0, 3.0]), epsilon=EPSILON)
    assert gain_N.tolist() == [0, 0, 3]
    assert torch.autograd.grad(gain_N.sum(), logq_N)[0].tolist() == [0, 0, 3]
    assert counts["clippable_tokens"] == 1


# Advantages


def test_an_advantage_compares_completions_of_the_same_prompt_and_policy() -> None:
    rewards = [1.0, 4.0, 10.0, 7.0, None, 5.0, 9.0]
    prompts = ["a", "b", "a", "a", "a", "c", "a"]
    rollouts = [
        sampled((EOS,), torch.zeros(1), reward, prompt=prompt) for reward, prompt in zip(rewards, prompts, strict=True)
    ]
    rollouts[-1] = replace(rollouts[-1], policy="another")
    advantage_B = advantages(rollouts, batch_params())
    assert advantage_B.tolist() == [1 - 8.5, 0, 10 - 4, 7 - 5.5, 0, 0, 0]
    assert advantage_B.sum() == pytest.approx(0, abs=1e-6)
    scaled = advantages(rollouts, batch_params(scale_rewards="group"))
    assert scaled == pytest.approx(advantage_B / (np.std([1, 10, 7], ddof=1) + 1e-4), rel=1e-6)


def test_equal_rewards_have_no_advantage() -> None:
    rollouts = [sampled((EOS,), torch.zeros(1), 0.1) for _ in range(3)]
    for scale in ("none", "group"):
        assert advantages(rollouts, batch_params(scale_rewards=scale)) == pytest.approx([0, 0, 0], abs=1e-6)


# Within the objective


def rows(advantage: list[float], behaviour: list[float]) -> tuple[Tensor, TeacherRows]:
    """Return the student's logits at three positions, and the teacher's rows."""
    teacher_TV, student_TV = random_logits(3, 9, seed=1), random_logits(3, 9, seed=0)
    made = teacher_rows([pair(teacher_TV, [0, 1, 2], support(), behaviour=behaviour)])
    return student_TV, replace(made, advantage_N=torch.tensor(advantage))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_objective_mixes_reward_and_divergence(alpha: float) -> None:
    """Value and gradient agree with autograd through whole rows of logits."""
    behaviour, advantage = [-1.0, -2.5, -3.0], [2.0, -1.0, 0.5]
    student_TV, made = rows(advantage, behaviour)
    plain, plain_gradient = loss_and_gradient(objective(), student_TV, made)
    value, gradient = loss_and_gradient(objective(alpha=alpha), student_TV, made)
    leaf = student_TV.clone().requires_grad_()
    ratio_N = (leaf.log_softmax(-1)[range(3), range(3)] - torch.tensor(behaviour)).exp()
    a_N = torch.tensor(advantage, dtype=torch.float64)
    gain = torch.minimum(ratio_N * a_N, ratio_N.clamp(1 - EPSILON, 1 + EPSILON) * a_N).sum()
    (policy,) = torch.autograd.grad(gain, leaf)
    assert policy.abs().max() > 0.1
    assert value == pytest.approx(alpha * plain - (1 - alpha) * gain.item(), abs=1e-6)
    assert (gradient - alpha * plain_gradient + (1 - alpha) * policy).abs().max() < 1e-6


def test_alpha_one_is_bit_identical_for_all_advantages() -> None:
    results = [
        loss_and_gradient(objective(alpha=1.0), *rows(advantage, [-1.0] * 3))
        for advantage in ([0.0] * 3, [5.0, -3.0, 1.0])
    ]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_no_gradient_flows_into_advantages() -> None:
    """Advantages that depend on the student's logits give the same gradient as constants."""
    student_TV, made = rows([0.0] * 3, [-1.0] * 3)
    gradients = []
    for detach in (False, True):
        leaf = student_TV.clone().requires_grad_()
        advantage_N = leaf.square().sum(-1)
        batch_ = replace(made, advantage_N=advantage_N.detach() if detach else advantage_N)
        loss, _ = batch_loss(objective(alpha=0.0), identity(leaf), leaf, batch_, behaviour_temperature=1.0)
        gradients.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0.1
