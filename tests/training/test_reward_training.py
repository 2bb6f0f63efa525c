"""Training of a tiny student for a reward, with all parts of the pipeline."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.training.batches import Pool
from tests.training_jobs import (
    OBJECTIVE,
    make_job,
    rewarded,
    scored,
    share,
    train_round,
    written_by,
)

REWARDED = replace(OBJECTIVE, alpha=0.05)


def mean_share(student: Path, seed: int) -> float:
    """Return the mean reward of new completions."""
    written = written_by(student, 16, tokens=8, seed=seed)
    return sum(map(share, written)) / len(written)


@pytest.fixture(scope="module")
def own(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Pool, Pool]:
    """Return teacher, student, its rewarded rollouts and the fixed corpus, both scored."""
    root = tmp_path_factory.mktemp("job")
    job = make_job(make_model_dir, root, samples=8, tokens=8, teacher_range=0.1, dropout=0.0)
    pool = scored(rewarded(list(job.own.rollouts)), job.teacher, root / "rewarded")
    return job.teacher, job.student, pool, job.corpus


@pytest.mark.parametrize("micro", [1, 4])
def test_splitting_a_step_changes_neither_loss_nor_gradient(
    own: tuple[Path, Path, Pool, Pool], micro: int, tmp_path: Path
) -> None:
    _, student, pool, corpus = own
    (_, once, at_once), (_, state, split) = (
        train_round(
            student, pool, corpus, REWARDED, tmp_path / f"{size}", steps=range(1), batch_size=8, micro_batch_size=size
        )
        for size in (8, micro)
    )
    assert 0 < once.rows[0]["own_share"] < 1
    assert state.rows[0]["loss"] == pytest.approx(once.rows[0]["loss"], abs=1e-6)
    assert state.rows[0]["reward"] == pytest.approx(once.rows[0]["reward"], abs=1e-9)
    assert max((split[name] - at_once[name]).abs().max().item() for name in at_once) < 1e-6
    assert max(gradient.abs().max().item() for gradient in at_once.values()) > 1e-2


def test_with_alpha_one_rewards_change_no_bit(own: tuple[Path, Path, Pool, Pool], tmp_path: Path) -> None:
    _, student, pool, corpus = own
    unpaid = [replace(rollout, reward=None) for rollout in pool.rollouts]
    bare = replace(pool, rollouts=unpaid, advantage_B=0 * pool.advantage_B)
    (_, with_, gradients), (_, without, plain) = (
        train_round(student, own, corpus, OBJECTIVE, tmp_path / name, steps=range(3))
        for name, own in (("with", pool), ("without", bare))
    )
    assert pool.advantage_B.any()
    assert not corpus.advantage_B.any()
    assert [row["loss"] for row in with_.rows] == [row["loss"] for row in without.rows]
    assert all(torch.equal(gradients[name], plain[name]) for name in plain)
    assert with_.rows[0]["reward"] > 0
    assert without.rows[0]["reward"] is None
    assert with_.rows[0]["gain_clipped"] is None


def test_a_reward_is_learnt_only_with_a_weight(own: tuple[Path, Path, Pool, Pool], tmp_path: Path) -> None:
    """Three rounds of six steps reward a token that the teacher does not prefer."""
    teacher, first, pool, corpus = own
    before, shares = mean_share(first, seed=99), {}
    large = {"batch_size": 24, "micro_batch_size": 24, "shuffle_window": 1000}
    for alpha in (1.0, 0.05):
        student, fresh = first, pool
        for turn in range(3):
            if turn:
                written = rewarded(written_by(student, 4, tokens=8, seed=turn))
                fresh = scored(written, teacher, tmp_path / f"{alpha}-{turn}-segment")
            objective, scratch = replace(OBJECTIVE, alpha=alpha, clip_epsilon=1.0), tmp_path / f"{alpha}-{turn}"
            student, state, _ = train_round(student, fresh, corpus, objective, scratch, steps=range(4, 10), **large)
        shares[alpha] = mean_share(student, seed=99)
    assert shares[0.05] > 3 * before > 0
    assert shares[1.0] < 1.5 * before
    clipped = [row["gain_clipped"] for row in state.rows]
    assert clipped[0] == 0
    assert 0 < clipped[-1] < 1
