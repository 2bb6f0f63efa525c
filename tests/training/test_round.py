"""The data of one round, the fingerprint that keys what a killed round leaves, and models on disk in fewer bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.types import Rollout
from pipeline.runtime.errors import StoreError
from pipeline.runtime.files import write_rows
from pipeline.runtime.layout import RolloutFiles
from pipeline.training.round import CONVERTED_MODEL, LOG, MODEL, OPTIMIZER, train_round
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
    changed = [replace(run, steps=range(2, 5)), replace(run, seed=1), replace(run, optimizer=optimizer(adam_beta2=0.5))]
    fingerprints = [run.fingerprint(other_data), *(other_run.fingerprint(data) for other_run in changed)]
    assert len({same, *fingerprints}) == 5

    # Keys that DVC does not track are in neither the fingerprint nor the lineage.
    untracked = replace(run, optimizer=optimizer(save_steps=1, keep_rounds=1))
    assert untracked.fingerprint(data) == same
    assert untracked.describe(data, [], "table", {}) == run.describe(data, [], "table", {})


def test_scores_of_another_tokenizer_are_refused(job: Job, tmp_path: Path) -> None:
    files = write_files(list(job.corpus.rollouts), job.teacher, tmp_path / "corpus")
    with pytest.raises(StoreError, match="tokenizer"):
        TrainingData.open(training_run(job.student, range(1)), files, files, "another")


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_rounds_of_rounded_models_take_the_steps_of_exact_ones(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float | None
) -> None:
    """The model on disk is in bfloat16; the weights in training are those of a run that publishes float32, by bits."""
    monkeypatch.chdir(tmp_path)
    pools = [
        write_files(list(pool.rollouts), job.teacher, Path(name))
        for name, pool in (("own", job.own), ("corpus", job.corpus))
    ]
    models, optimizers = {}, {}
    for dtype, kind in ((None, MODEL), (torch.bfloat16, CONVERTED_MODEL)):
        start, state = job.student, None
        for steps in (range(2), range(2, 4)):
            settings = {"optimizer": optimizer(ema_decay=ema_decay), "saved_dtype": dtype, "optimizer_state": state}
            run = training_run(start, steps, **settings)
            data = TrainingData.open(run, *pools, "k")
            start, state = (Path(f"{dtype}/{steps.start}/{name}") for name in ("model", "optimizer.pt"))
            outputs = {kind: start, OPTIMIZER: state, LOG: start.with_name(LOG)}
            assert len(train_round(run, data, outputs, lambda *_: None)) == 2
        models[dtype] = load_file(start / "model.safetensors")
        optimizers[dtype] = torch.load(state, weights_only=True)
    exact, rounded = models.values()
    assert {tensor.dtype for tensor in rounded.values()} == {torch.bfloat16}
    for name, tensor in exact.items():
        assert torch.equal(rounded[name], tensor.to(torch.bfloat16))
        assert torch.equal(optimizers[torch.bfloat16]["published"][name], tensor)
    moments = [saved["optimizer"]["state"] for saved in optimizers.values()]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])
    assert optimizers[None]["published"] is None
    assert sum(map(torch.numel, exact.values())) == sum(map(torch.numel, rounded.values()))
