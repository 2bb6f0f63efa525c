"""Completions of which others wrote tokens have the loss, the gradients and the log of their turns."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.core.types import Rollout, reference_rollouts
from pipeline.models import language_model as lm
from pipeline.training.batches import Pool, make_pool
from pipeline.training.run import TrainingData
from pipeline.training.sft import cross_entropy
from tests.factories import batch_params, objective_params, prompt, rollout
from tests.training_jobs import EOS, MIX, VOCAB, make_job, scored, train_round

# A conversation of two assistant turns with a user's turn between them.
PROMPT, FIRST, USER, SECOND = [38, 1, 10], [20, 7, 21, EOS], [2, 3, 4], [30, 22, EOS]
MASK = [True] * 4 + [False] * 3 + [True] * 3
BUCKET = objective_params(tail_estimator="bucket", chunk_tokens=4)
WITH_REWARD = objective_params(tail_estimator="bucket", chunk_tokens=4, alpha=0.5)


@pytest.fixture(scope="module")
def models(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the directories of a teacher and a student."""
    job = make_job(make_model_dir, tmp_path_factory.mktemp("j"), samples=1, tokens=2, teacher_range=0.5, dropout=0.0)
    return job.teacher, job.student


def whole(name: str, **changes: Any) -> Rollout:
    """Return the conversation as one completion with a mask."""
    completion = FIRST + USER + SECOND
    return rollout(name, completion, prompt=PROMPT, prompt_id="p", completion_mask=MASK, **changes)


def turns(name: str, logp: Sequence[float] = (), **changes: Any) -> list[Rollout]:
    """Return the conversation as two completions, each after all that came before it."""
    first = rollout(f"{name}1", FIRST, prompt=PROMPT, prompt_id="p", behaviour_logp=[*logp[:4]], **changes)
    second = rollout(
        f"{name}2", SECOND, prompt=PROMPT + FIRST + USER, prompt_id="q", behaviour_logp=[*logp[4:]], **changes
    )
    return [first, second]


def train(
    models: tuple[Path, Path], root: Path, own: list[Rollout], corpus: list[Rollout], objective: Any = BUCKET
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the log row and the gradients of one step over all sequences."""
    teacher, student = models
    root.mkdir()
    pools = [scored(part, teacher, root / name) for name, part in (("own", own), ("corpus", corpus))]
    return step(student, *pools, root, objective)


def step(
    student: Path, own: Pool, corpus: Pool, root: Path, objective: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    count = len(own.rollouts) + len(corpus.rollouts)
    mix = {"batch_size": count, "micro_batch_size": count, "student_fraction": float(bool(own.rollouts))}
    _, state, gradients = train_round(student, own, corpus, objective, root / "scratch", steps=range(1), **mix)
    return state.rows[0], gradients


def assert_same(got: tuple[dict[str, Any], Any], expected: tuple[dict[str, Any], Any]) -> None:
    differing = {"read_tokens"}  # a turn of its own reads what came before it again
    numbers = {name: value for name, value in expected[0].items() if isinstance(value, float)}
    assert {name: got[0][name] for name in numbers} == pytest.approx(numbers, rel=1e-5)
    rest = expected[0].keys() - numbers.keys() - differing
    assert {name: got[0][name] for name in rest} == {name: expected[0][name] for name in rest}
    for name, gradient in expected[1].items():
        torch.testing.assert_close(got[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_references_have_the_loss_and_the_gradients_of_their_turns(models: tuple[Path, Path], tmp_path: Path) -> None:
    masked = train(models, tmp_path / "whole", [], [whole("r", source="dataset")])
    assert masked[0]["tokens"] == 7
    assert_same(masked, train(models, tmp_path / "turns", [], turns("r", source="dataset")))


def test_student_rollouts_have_staleness_and_reward_at_their_own_tokens_alone(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    logp = {"a": [-3.0, -3.5, -4.0, -3.2, -3.7, -4.1, -2.9], "b": [-3.1] * 7}
    rewards = {"a": 1.0, "b": 0.25}
    masked = [whole(name, behaviour_logp=logp[name], reward=rewards[name]) for name in logp]
    parts = [part for name in logp for part in turns(name, logp[name], reward=rewards[name])]
    row, gradients = train(models, tmp_path / "whole", masked, [], WITH_REWARD)
    assert (row["tokens"], row["compared_tokens"]) == (14, 14)
    expected = train(models, tmp_path / "turns", parts, [], WITH_REWARD)
    assert_same((row, gradients), expected)
    assert row["staleness_kl"] > 0


def test_a_mask_of_all_tokens_changes_no_bit(models: tuple[Path, Path], tmp_path: Path) -> None:
    plain = turns("r", source="dataset")
    marked = [replace(part, completion_mask=[True] * len(part.completion_ids)) for part in plain]
    (row, gradients), (other_row, others) = (
        train(models, tmp_path / name, [], part) for name, part in (("plain", plain), ("marked", marked))
    )
    assert row == other_row
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())


def test_fine_tuning_has_the_cross_entropy_of_scored_tokens_alone(models: tuple[Path, Path], tmp_path: Path) -> None:
    ids = PROMPT + FIRST + USER
    mask = [False] * len(PROMPT) + [True] * len(FIRST) + [False] * len(USER)
    (reference,) = reference_rollouts([prompt("p", ids, reference_ids=SECOND, assistant_mask=mask)])
    assert (reference.prompt_ids, reference.completion_mask) == (PROMPT, MASK)
    data = TrainingData.of_references([reference], batch_params())
    row, _ = step(models[1], make_pool([], data.own.scores, MIX), data.corpus, tmp_path, cross_entropy(chunk_tokens=4))

    with torch.no_grad():
        logits = lm.load_model(models[1])(torch.tensor([ids + SECOND])).logits[0, len(PROMPT) - 1 : -1, :VOCAB]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(reference.completion_ids), reduction="none")
    assert row["loss"] == pytest.approx(nll[torch.tensor(MASK)].mean().item(), rel=1e-5)
    assert row["tokens"] == 7


def test_the_identity_of_references_follows_their_masks() -> None:
    plain, all_true, masked = (
        TrainingData.of_references([replace(whole("r"), completion_mask=mask)], batch_params()).identity
        for mask in ([], [True] * 10, MASK)
    )
    assert plain == all_true
    assert plain != masked
