"""With optimizer.keep_rounds, the optimizers of early rounds are gone, and DVC, schedules and kills do not notice."""

import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.hashing import file_digest, tree_digest
from pipeline.training.states import read_reference, state_digest
from tests.project import FIRST_RUN, PARAMS, STUDENT, Project, copy_of, executed


def states(project: Project) -> list[str]:
    return sorted(path.name for path in (project.path / ".scratch/optimizers").iterdir())


def model(project: Project, round_id: str) -> str:
    return file_digest(project.path / f"work/small/{round_id}/model/model.safetensors")


def has_checkpoint(project: Project) -> bool:
    return any(project.path.glob(".scratch/small-r2-*/*/step-*"))


@pytest.fixture(scope="module")
def keeping(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that keeps the optimizer of one round, run to its end."""
    project = copy_of(fresh, tmp_path_factory.mktemp("keeping"))
    project.change("optimizer", "keep_rounds", to=1)
    assert executed(project.repro()) == sorted(FIRST_RUN)
    return project


def test_a_schedule_goes_on_with_the_same_bits(keeping: Project, finished: tuple[Project, str], tmp_path: Path) -> None:
    project, all_kept = copy_of(keeping, tmp_path / "keeping"), copy_of(finished[0], tmp_path / "all")
    assert states(project) == ["small-r2.pt"]
    first, last = (project.path / f"work/small/{round_id}/optimizer.pt" for round_id in ("r1", "r2"))
    assert max(first.stat().st_size, last.stat().st_size) < 4096
    reference = read_reference(last)
    assert reference is not None
    assert reference["state"] == state_digest(all_kept.path / "work/small/r2/optimizer.pt")
    assert file_digest(project.path / STUDENT) == file_digest(all_kept.path / STUDENT)
    assert executed(project.repro()) == []
    shutil.rmtree(project.path / "work")
    assert executed(project.repro()) == []  # everything comes out of DVC's cache

    new = ["plan", *(f"{stage}@small-r3" for stage in ("rollout", "score", "train", "evaluate")), "report"]
    for each in (project, all_kept):
        each.change("schedule", "total_steps", to=6)
        assert executed(each.repro()) == sorted(new)
    assert model(project, "r3") == model(all_kept, "r3")
    assert states(project) == ["small-r3.pt"]


@pytest.mark.slow
def test_a_dropped_optimizer_is_trained_again_or_refused(keeping: Project, tmp_path: Path) -> None:
    """As after a clone with `dvc pull`, or where another machine computes other bits."""
    project = copy_of(keeping, tmp_path)
    shutil.rmtree(project.path / ".scratch")
    project.change("schedule", "total_steps", to=6)
    output = project.repro()
    assert re.findall(r"^(small-r.): its optimizer was dropped", output, re.MULTILINE) == ["small-r1", "small-r2"]
    assert {stage for stage in executed(output) if stage.startswith("train")} == {"train@small-r3"}
    assert states(project) == ["small-r3.pt"]

    (project.path / ".scratch/optimizers/small-r3.pt").unlink()
    other = read_reference(project.path / "work/small/r1/optimizer.pt")
    assert other is not None
    (project.path / "work/small/r1/optimizer.pt").unlink()  # a link to DVC's cache
    torch.save(other | {"state": "other bits"}, project.path / "work/small/r1/optimizer.pt")
    options = ["--student", "small", "--round", "r2", "--prev", "r1", "--first-step", "2", "--steps", "2"]
    command = [sys.executable, "-m", "stages.train", *options, "--gate", "work/plan.json"]
    refused = subprocess.run(
        command, cwd=project.path, env=project.env, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: .scratch/optimizers/small-r1.pt: expected the optimizer of the first time, got another; "
        "run `stillroom repro --force --single-item train@small-r1`, then `make repro`\n"
    )


@pytest.mark.slow
def test_other_parameters_train_every_round_and_old_ones_come_back(
    keeping: Project, finished: tuple[Project, str], tmp_path: Path
) -> None:
    project, all_kept = copy_of(keeping, tmp_path / "keeping"), copy_of(finished[0], tmp_path / "all")
    project.change("optimizer", "learning_rate", to=2e-3)
    assert {"train@small-r1", "train@small-r2"} <= {*executed(project.repro())}
    assert file_digest(project.path / STUDENT) != file_digest(all_kept.path / STUDENT)
    project.change("optimizer", "learning_rate", to=PARAMS["optimizer"]["learning_rate"])
    assert executed(project.repro()) == []  # out of the run cache, without optimizers
    for each in (project, all_kept):
        each.change("schedule", "total_steps", to=6)
        assert "train@small-r3" in executed(each.repro())
    assert model(project, "r3") == model(all_kept, "r3")


@pytest.mark.slow
def test_a_killed_round_ends_with_the_same_bits(keeping: Project, tmp_path: Path) -> None:
    train, ends = "train@small-r2", []
    for name in ("straight", "killed"):
        project = copy_of(keeping, tmp_path / name)
        project.change("schedule", to=PARAMS["schedule"] | {"total_steps": 60, "refresh_every": 30})
        if name == "killed":
            project.kill_stage("stages.train", partial(has_checkpoint, project), train)
        project.repro(train)
        state = state_digest(project.path / ".scratch/optimizers/small-r2.pt")
        ends.append((tree_digest(project.path / "work/small/r2/model"), state))
        assert executed(project.repro(train)) == []
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_models_in_bfloat16_take_the_same_steps(keeping: Project, tmp_path: Path) -> None:
    project = copy_of(keeping, tmp_path)
    project.change("optimizer", "save_dtype", to="bfloat16")
    project.repro()
    weights = load_file(project.path / STUDENT)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    saved = torch.load(project.path / ".scratch/optimizers/small-r2.pt", weights_only=True)
    assert all(torch.equal(weights[name], exact.to(torch.bfloat16)) for name, exact in saved["published"].items())
    assert any(not torch.equal(weights[name].float(), exact) for name, exact in saved["published"].items())
    half = (project.path / STUDENT).stat().st_size
    assert half < 0.6 * (project.path / "work/small/init/model/model.safetensors").stat().st_size
    assert executed(project.repro()) == []
