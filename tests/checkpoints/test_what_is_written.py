"""Whoever writes a model directory reads it again: teacher, init and merge publish nothing that differs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import PreTrainedModel

from pipeline.models import lora
from pipeline.models.language_model import load_model
from pipeline.models.lora import LoraParams
from pipeline.runtime.errors import ModelError
from stages.cli.main import merge
from stages.teacher import main as teacher
from tests.factories import lora_params, make_lora_student, make_student

WRONG = "expected to read the model again that was written, got logits that differ by"


@pytest.fixture
def wrong_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers write another norm than the one in memory."""
    write = PreTrainedModel.save_pretrained

    @torch.no_grad()
    def save_pretrained(self: Any, folder: Path, **options: Any) -> None:
        norm = self.model.norm.weight
        kept = norm.clone()
        norm[::2] *= 1.5
        write(self, folder, **options)
        norm.copy_(kept)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_pretrained)


@pytest.mark.usefixtures("wrong_writer")
def test_the_teacher_stage_publishes_nothing(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = {"teacher": {"model": str(teacher_dir), "revision": None, "dtype": "bfloat16"}}
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    result = CliRunner().invoke(teacher, ["--out", "work/teacher"])
    assert isinstance(result.exception, ModelError)
    assert str(result.exception).startswith(f"work/teacher: {WRONG}")
    assert not Path("work/teacher").exists()


@pytest.mark.usefixtures("wrong_writer")
@pytest.mark.parametrize("adapter", [None, lora_params()])
def test_a_student_is_not_published(adapter: LoraParams | None, student_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^s: {WRONG}"):
        make_student(tmp_path, student_dir, adapter)
    assert not list(tmp_path.rglob("config.json"))


def test_merge_publishes_nothing(student_dir: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = make_lora_student(tmp_path, student_dir, lora_params())
    request.getfixturevalue("wrong_writer")
    result = CliRunner().invoke(merge, [str(folder), str(tmp_path / "merged")])
    assert str(result.exception).startswith(f"{tmp_path / 'merged'}: {WRONG}")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_was_written_wrong_is_not_published(
    student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = lora.save

    @torch.no_grad()
    def save(model: Any, folder: Path) -> None:
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(1.0)
        write(model, folder)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()

    monkeypatch.setattr(lora, "save", save)
    with pytest.raises(ModelError, match=WRONG):
        make_lora_student(tmp_path, student_dir, lora_params())


def test_students_that_are_written_right_are_published(student_dir: Path, tmp_path: Path) -> None:
    load_model(make_student(tmp_path, student_dir))
    load_model(make_lora_student(tmp_path / "adapter", student_dir, lora_params()))
