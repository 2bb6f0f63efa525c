"""pipeline.workspace.input_check: what is missing is reported from small files, before any model is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from pipeline.runtime.errors import UserError
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.input_check import check_inputs, check_model
from tests.project import PARAMS, write_questions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path) -> dict[str, Any]:
    """Valid parameters of a project in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_questions(tmp_path / "data")
    shutil.copytree(teacher_dir, tmp_path / "models/teacher")
    return json.loads(json.dumps(PARAMS))  # type: ignore[no-any-return]


def message(document: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check_inputs(document)
    return str(caught.value)


def test_the_default_job_and_a_sound_project_pass(document: dict[str, Any]) -> None:
    check_inputs(document)
    check_inputs(read_yaml(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"question_column": "frage"},
            "data (test) row 0: expected a column 'frage', got columns question, answer; fix",
        ),
        ({"data": "./nowhere"}, "./nowhere: expected a file or directory, got no such path; correct the path in task"),
        ({"data": "nope.jsonl"}, "nope.jsonl: expected a file or directory, got no such path; correct the path in"),
        ({"data": "data/train.jsonl"}, "data/train.jsonl: expected a directory, got a file; name its directory in"),
        ({"train_split": "training"}, "data: expected training{"),
    ],
)
def test_wrong_data_are_reported(document: dict[str, Any], changes: dict[str, str], expected: str) -> None:
    document["task"]["settings"] |= changes
    assert message(document).startswith(expected)


def test_a_column_of_another_type_is_reported(document: dict[str, Any]) -> None:
    row = json.dumps({"question": {"text": "1 and 1?"}, "answer": "#### 2"})
    Path("data/train.jsonl").write_text(f"{row}\n", encoding="utf-8")
    assert message(document).startswith("data (train) row 0.question: expected text, got dict; fix")


def test_a_context_that_is_too_short_is_reported(document: dict[str, Any]) -> None:
    document["rollout"]["sampling"]["max_new_tokens"] = 400
    assert "teacher.model with task.max_prompt_tokens and rollout.sampling.max_new_tokens: expected at most 512 " in (
        message(document)
    )


def test_a_student_is_checked_as_the_teacher_is(document: dict[str, Any]) -> None:
    document["student"]["small"] = {"model": "models/studnet"}
    assert message(document).startswith("student.small.model: expected a hub name, a directory of a model or a .gguf")


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        (("config.json",), None),  # a tokenizer and weights without a configuration
        (("model.safetensors",), "without weights; save it there"),
        (("tokenizer.json", "tokenizer_config.json"), "without a tokenizer; save it there"),
    ],
)
def test_an_incomplete_directory_is_reported(
    document: dict[str, Any], removed: tuple[str, ...], expected: str | None
) -> None:
    for name in removed:
        Path("models/teacher", name).unlink()
    assert (expected or "models/teacher") in message(document)


def test_a_damaged_configuration_is_reported(document: dict[str, Any]) -> None:
    Path("models/teacher/config.json").write_text("{", encoding="utf-8")
    assert "models/teacher/config.json (" in message(document)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instrct", "no directory here, and not in the hub's cache; correct the name"),
        ("a/b/c", "nothing at 'a/b/c'; correct the path"),
        ("~/nowhere", "nothing at '~/nowhere'; correct the path"),
        ("", "got ''; name a model"),
        ("bad name!", "(Repo id must"),
        ("data/train.jsonl", "the file data/train.jsonl; name the directory"),
        ("data", "data with test.jsonl, train.jsonl; name a model that transformers saved"),
        ("missing.gguf", "expected a file at missing.gguf, got nothing"),
        ("package:nowhere/x.gguf", "expected package nowhere, got none installed"),
    ],
)
def test_a_name_that_is_no_model_is_reported(document: dict[str, Any], name: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_model(name, "--teacher")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("--teacher: ")


def test_a_name_on_the_hub_is_not_refused_while_it_can_be_asked(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, make_t5_dir: Callable[..., Path]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert check_model("someone/something", "--teacher") is None
    limits = check_model(str(make_t5_dir(Path("t5"))), "--teacher")
    assert limits is not None
    assert limits.separate
