"""pipeline.workspace.disk_usage: rounds that are left times weights and moments; unknown for a missing model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.language_model import load_model
from pipeline.runtime.config import section
from pipeline.runtime.yaml_files import edit_yaml
from pipeline.workspace.disk_usage import rest_bytes
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from tests.factories import lora_params, make_lora_student

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    write_rounds(tmp_path / "rounds.yaml", section(tmp_path / "params.yaml", ScheduleParams, "schedule"), ["small"], [])
    return tmp_path


def start(root: Path, **changes: Any) -> None:
    student = {"model": "teacher", "revision": None, "layers": None, "config": None, "lora": None} | changes
    (root / "params.yaml").write_text(
        edit_yaml(root / "params.yaml", {("student",): {"small": student}}), encoding="utf-8"
    )


def test_a_missing_model_has_no_size(root: Path) -> None:
    assert rest_bytes(root) is None
    assert rest_bytes(root, {}) == 0  # no round is left, so that no size is needed


def test_rounds_that_are_left_count_weights_and_moments(root: Path, make_model_dir: Callable[..., Path]) -> None:
    make_model_dir(root / "work/teacher", layers=2, seed=1)
    size = sum(weight.numel() for weight in load_model(root / "work/teacher").parameters())
    start(root)
    assert rest_bytes(root) == 3 * 12 * size
    (root / "work/small/r1/model").mkdir(parents=True)
    assert rest_bytes(root) == 2 * 12 * size
    assert rest_bytes(root, {"small": 5}) == 5 * 12 * size
    (root / "params.yaml").write_text(
        edit_yaml(root / "params.yaml", {("optimizer", "ema_decay"): 0.9}), encoding="utf-8"
    )
    assert rest_bytes(root) == 2 * 16 * size


def test_the_student_that_was_initialised_counts_before_its_source(
    root: Path, make_model_dir: Callable[..., Path]
) -> None:
    make_model_dir(root / "mine", layers=2, seed=1)
    start(root, model="mine")
    whole = rest_bytes(root)
    assert whole is not None
    make_model_dir(root / "work/small/init/model", layers=1, seed=1)
    cut = rest_bytes(root)
    assert cut is not None
    assert cut < whole


def test_a_randomly_initialised_student_is_unknown_before_it_exists(
    root: Path, make_model_dir: Callable[..., Path]
) -> None:
    make_model_dir(root / "work/teacher", layers=2, seed=1)
    start(root, config={"num_hidden_layers": 1})
    assert rest_bytes(root) is None


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_an_adapter_has_a_size_before_it_is_made(
    root: Path, make_model_dir: Callable[..., Path], targets: str | list[str]
) -> None:
    """The size is that of the adapter that the stage `init` then makes."""
    teacher = make_model_dir(root / "work/teacher", layers=2, seed=1)
    start(root, lora={"r": 4, "target_modules": targets})
    expected = rest_bytes(root)
    modules = targets if isinstance(targets, str) else tuple(targets)
    make_lora_student(root / "work/small", teacher, lora_params(r=4, target_modules=modules))
    assert expected is not None
    assert expected == rest_bytes(root)
