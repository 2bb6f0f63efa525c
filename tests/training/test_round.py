"""The data of one round, and the fingerprint that keys what a killed round leaves."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.types import Rollout
from pipeline.runtime.errors import StoreError
from pipeline.runtime.files import write_rows
from pipeline.runtime.layout import RolloutFiles
from pipeline.training.run import TrainingData
from schemas.rollout import ROLLOUT
from tests.training_jobs import Job, make_job, optimizer, scored, training_run


@pytest.fixture(scope="module")
def job(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("job")
    return make_job(make_model_dir, root, samples=1, tokens=4, teacher_range=0.5, dropout=0.0)


def write_files(rollouts: list[Rollout], teacher: Path, directory: Path) -> RolloutFiles:
    """Write rollouts and their scores as the stages do."""
    files = RolloutFiles(directory)
    directory.mkdir()
    write_rows(files.rollouts, rollouts, ROLLOUT)
    scored(rollouts, teacher, files.segment)
    return files


def test_the_fingerprint_follows_parameters_and_data(job: Job, tmp_path: Path) -> None:
    run = training_run(job.student, range(2, 4))
    rollouts = list(job.own.rollouts)
    corpus = write_files(list(job.corpus.rollouts), job.teacher, tmp_path / "corpus")
    own = write_files(rollouts, job.teacher, tmp_path / "own")
    data = TrainingData.open(run, own, corpus, "k")
    assert list(data.segments) == ["s/r1", "corpus"]
    assert len(run.plan(data)) == 2
    same = run.fingerprint(TrainingData.open(run, own, corpus, "k"))
    assert same == run.fingerprint(data)

    # The reward is in the rollouts file alone; the scores are the same.
    rewarded = write_files([replace(rollouts[0], reward=1.0), *rollouts[1:]], job.teacher, tmp_path / "rewarded")
    other_data = TrainingData.open(run, rewarded, corpus, "k")
    assert other_data.own_segment.manifest.segment_id == data.own_segment.manifest.segment_id
    changed = [replace(run, steps=range(2, 5)), replace(run, seed=1), replace(run, optimizer=optimizer(save_steps=1))]
    fingerprints = [run.fingerprint(other_data), *(other_run.fingerprint(data) for other_run in changed)]
    assert len({same, *fingerprints}) == 5


def test_scores_of_another_tokenizer_are_refused(job: Job, tmp_path: Path) -> None:
    files = write_files(list(job.corpus.rollouts), job.teacher, tmp_path / "corpus")
    with pytest.raises(StoreError, match="tokenizer"):
        TrainingData.open(training_run(job.student, range(1)), files, files, "another")
