"""pipeline.workspace.hub: what the hub has under a name is looked at before anything is fetched."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from pipeline.runtime.errors import UserError
from pipeline.workspace.dataset_detection import find_rows, first_rows
from pipeline.workspace.hub import cached_files, hub_files
from pipeline.workspace.input_check import check_inputs, check_model
from tests.hub_server import serve_hub
from tests.project import PARAMS, write_questions


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path) -> Iterator[Path]:
    """A hub with the model and the data set me/sums; the result is its directory."""
    root = tmp_path / "hub"
    (root / "datasets/me").mkdir(parents=True)
    write_questions(root / "datasets/me/sums")
    shutil.copytree(teacher_dir, root / "models/me/sums")
    monkeypatch.chdir(tmp_path)
    with serve_hub(root) as address:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        yield root


@pytest.fixture
def document(hub: Path) -> dict[str, Any]:
    """Valid parameters with a teacher and data on the hub."""
    document: dict[str, Any] = json.loads(json.dumps(PARAMS))
    document["teacher"]["model"] = document["task"]["settings"]["data"] = "me/sums"
    return document


def message(document: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check_inputs(document)
    return str(caught.value)


def test_what_the_hub_has_passes_and_only_small_files_are_fetched(document: dict[str, Any], tmp_path: Path) -> None:
    check_inputs(document)
    assert {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")} <= {"config.json"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data": "me/smus"},
            "task.settings.data: expected a dataset on the hub or a directory, got no 'me/smus' on the hub",
        ),
        (
            {"revision": "v9"},
            "task.settings.data: expected a dataset on the hub or a directory, got no revision 'v9' of",
        ),
        ({"question_column": "frage"}, "me/sums (test) row 0: expected a column 'frage', got columns question, answer"),
        (
            {"train_split": "training[:90%]"},
            "me/sums (training[:90%]): expected rows of a directory's file or of a data",
        ),
        (
            {"config": "main"},
            "me/sums (test): expected rows of a directory's file or of a data set on the hub, got Build",
        ),
    ],
)
def test_wrong_data_are_reported(document: dict[str, Any], changes: dict[str, str], expected: str) -> None:
    document["task"]["settings"] |= changes
    assert message(document).startswith(expected)


def test_a_column_is_looked_for_before_all_rows_are_fetched(hub: Path) -> None:
    rows = find_rows("me/sums", None, None, None)
    assert rows["train_split"] == "train"
    assert {name for row in first_rows(rows, []) for name in row} == {"question", "answer"}
    assert not list(hub.parent.glob("datasets/*/*/*/*/*.arrow"))


def test_a_context_that_is_too_short_is_reported(document: dict[str, Any]) -> None:
    document["rollout"]["sampling"]["max_new_tokens"] = 400
    assert "teacher.model with task.max_prompt_tokens and rollout.sampling.max_new_tokens: expected at most 512 " in (
        message(document)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me/smus", "expected a model on the hub or a directory, got no 'me/smus' on the hub; correct the name, or"),
        ("bad name!", "(Repo id must"),
    ],
)
def test_a_name_that_the_hub_does_not_have_is_reported(hub: Path, name: str, expected: str) -> None:
    with pytest.raises(UserError, match=r"^--teacher: ") as caught:
        check_model(name, "--teacher")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("removed", "added", "expected"),
    [
        (("model.safetensors",), None, "me/sums without weights"),
        (("tokenizer.json", "tokenizer_config.json"), None, "me/sums without a tokenizer"),
        ((), "model-q4.gguf", "me/sums with model-q4.gguf; name a .gguf file of it"),
    ],
)
def test_an_incomplete_repository_is_reported(
    hub: Path, removed: tuple[str, ...], added: str | None, expected: str
) -> None:
    folder = hub / "models/me/sums"
    for path in folder.iterdir():
        if added or path.name in removed:
            path.unlink()
    if added:
        (folder / added).touch()
    with pytest.raises(UserError) as caught:
        check_model("me/sums", "--teacher")
    assert expected in str(caught.value)


def test_an_adapter_on_the_hub_passes(hub: Path) -> None:
    folder = hub / "models/me/adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert check_model("me/adapter", "--teacher") is None


def test_what_was_fetched_once_is_checked_without_the_hub(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = datasets.load_dataset("me/sums", split="train")
    assert rows.num_rows
    assert check_model("me/sums", "--teacher") is not None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert hub_files("model", "me/sums", None, where="--teacher") is None
    assert cached_files("me/sums", None) == ["config.json"]
    document["task"]["settings"]["question_column"] = "frage"
    assert message(document).startswith("me/sums (test) row 0: expected a column 'frage'")


def test_a_hub_that_does_not_answer_is_no_error(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    check_inputs(document)
