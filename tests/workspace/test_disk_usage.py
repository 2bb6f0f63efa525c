"""pipeline.workspace.disk_usage: weights, moments and copies of rounds that are left; unknown for a missing model."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.language_model import load_model
from pipeline.runtime.config import section
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.disk_usage import DiskNeeds, cache_types, links_to_outputs, rest_bytes
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from tests.factories import lora_params, make_lora_student

ROOT = Path(__file__).parents[2]
NOTHING = DiskNeeds(models=0, optimizers=0, copies=0, passing=0)


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
    assert rest_bytes(root, {}) == NOTHING  # no round is left, so no size is needed


def set_optimizer(root: Path, **changes: Any) -> None:
    keys = {("optimizer", key): value for key, value in changes.items()}
    (root / "params.yaml").write_text(edit_yaml(root / "params.yaml", keys), encoding="utf-8")


def test_rounds_that_are_left_count_weights_and_moments(root: Path, make_model_dir: Callable[..., Path]) -> None:
    make_model_dir(root / "work/teacher", layers=2, seed=1)
    size = sum(weight.numel() for weight in load_model(root / "work/teacher").parameters())
    start(root)
    link_cache(root, "hardlink,copy")
    set_optimizer(root, ema_decay=None)
    assert rest_bytes(root) == replace(NOTHING, models=3 * 4 * size, optimizers=3 * 8 * size)
    (root / "work/small/r1/model").mkdir(parents=True)
    assert rest_bytes(root) == replace(NOTHING, models=2 * 4 * size, optimizers=2 * 8 * size)
    left = rest_bytes(root, {"small": 5})
    assert left is not None
    assert left.total == 5 * 12 * size
    set_optimizer(root, ema_decay=0.9)
    assert rest_bytes(root) == replace(NOTHING, models=2 * 4 * size, optimizers=2 * 12 * size)
    set_optimizer(root, ema_decay=None, save_dtype="bfloat16", keep_rounds=2)
    # While a round trains, there are the oldest state and the weights in float32, too.
    needs = replace(NOTHING, models=5 * 2 * size, optimizers=2 * 12 * size, passing=(12 + 4) * size)
    assert rest_bytes(root, {"small": 5}) == needs
    # The optimizers that are kept are not in DVC's cache.
    link_cache(root, "reflink,copy")
    assert rest_bytes(root, {"small": 5}) == replace(needs, copies=5 * 2 * size)
    set_optimizer(root, keep_rounds=None)
    left = rest_bytes(root)
    assert left is not None
    assert left.copies == left.models + left.optimizers


def test_a_round_with_checkpoints_needs_room_for_two(root: Path, make_model_dir: Callable[..., Path]) -> None:
    """Weights and moments of the checkpoint before the last, once, because one round trains at a time."""
    make_model_dir(root / "work/teacher", layers=2, seed=1)
    start(root)
    set_optimizer(root, ema_decay=None)
    left = rest_bytes(root)
    set_optimizer(root, save_steps=4)
    more = rest_bytes(root)
    assert left is not None
    assert more is not None
    assert more == replace(left, passing=left.models)  # of three rounds, 4 bytes each; a checkpoint has 12
    assert left.passing == 0
    student = read_yaml(root / "params.yaml")["student"]["small"]
    keys = {("students",): ["small", "second"], ("student",): {"small": student, "second": student}}
    (root / "params.yaml").write_text(edit_yaml(root / "params.yaml", keys), encoding="utf-8")
    assert rest_bytes(root) == DiskNeeds(
        models=2 * more.models, optimizers=2 * more.optimizers, copies=2 * more.copies, passing=more.passing
    )


def link_cache(root: Path, types: str, directory: str = "cache") -> None:
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc/config").write_text(f'[cache]\n    type = "{types}"\n    dir = {directory}\n', encoding="utf-8")


def test_links_need_one_disk_and_the_first_place_in_the_configuration(root: Path) -> None:
    assert not links_to_outputs(root)  # DVC's default
    for types, linked in (("hardlink,copy", True), ("reflink,hardlink,copy", False), ("symlink", True)):
        link_cache(root, types)
        assert links_to_outputs(root) == linked
        assert cache_types(root) == types.split(",")
    link_cache(root, "hardlink,copy", "/proc/elsewhere")
    assert not links_to_outputs(root)


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
    assert cut.total < whole.total


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
