"""`stillroom init`: a params.yaml that passes every check, or one line that says what does not fit."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import beginning
from pipeline.beginning import _half, _memory
from pipeline.configuration import check_params
from pipeline.params import read_yaml
from stages import command
from stages.cli import commands

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path, student_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("teacher").symlink_to(teacher_dir)
    Path("student").symlink_to(student_dir)


def write_data(**row: str) -> None:
    Path("data").mkdir()
    for split in ("train", "test"):
        rows = [{name: f"{value} {number} of {split}" for name, value in row.items()} for number in range(4)]
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def init(monkeypatch: pytest.MonkeyPatch, *args: str, student: str = "student") -> int:
    given = ["--teacher", "teacher", "--student", student, "--data", "data", *args]
    monkeypatch.setattr(sys, "argv", ["stillroom", "init", *given])
    with pytest.raises(SystemExit) as caught:
        command.run(commands)
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"question": "what", "answer": "well #### 3"}, "gsm8k"),
        ({"instruction": "do", "output": "done"}, "instructions"),
        ({"article": "a long text", "highlights": "short"}, "summarisation"),
        ({"source": "ja", "target": "yes"}, "translation"),
    ],
)
def test_the_columns_tell_the_task_and_the_result_is_sound(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, str], task: str
) -> None:
    write_data(**row)
    assert init(monkeypatch, "--force") == 0
    check_params(Path("params.yaml"))
    written = read_yaml(Path("params.yaml"))
    assert (written["task"]["name"], written["teacher"]["model"]) == (task, "teacher")
    assert written["student"]["student"]["model"] == "student"
    assert written["task"]["template"]["chat"] is True
    assert len(read_yaml(Path("rounds.yaml"))["rounds"]) == 3
    assert "# Every knob of the pipeline" in Path("params.yaml").read_text()


def test_lengths_come_from_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(article="x" * 100, summary="y" * 40)
    assert init(monkeypatch, "--out", "other.yaml") == 0
    written = read_yaml(Path("other.yaml"))
    assert written["rollout"]["sampling"]["max_new_tokens"] == 64  # 40 bytes, " 0 of train", an end token
    assert written["task"]["max_prompt_tokens"] % 16 == 0
    assert 100 < written["task"]["max_prompt_tokens"] < 208
    assert not Path("rounds.yaml").exists()  # it belongs to params.yaml


def test_a_student_cut_from_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(article="a", summary="b")
    assert init(monkeypatch, "--force", student="teacher") == 0
    assert read_yaml(Path("params.yaml"))["student"]["student"]["layers"] == [0, 3]
    assert (_half(30)[0], _half(30)[-1], len(_half(30))) == (0, 29, 15)


@pytest.mark.parametrize(
    ("args", "row", "told"),
    [
        ((), {"article": "a", "summary": "b"}, "got changes to it; keep a copy and add --force"),
        (("--force",), {"frage": "a", "antwort": "b"}, "got frage, antwort; name them"),
        (("--force", "--task", "poems"), {"article": "a", "summary": "b"}, "--task: expected one of: "),
        (("--force", "--heldout-split", "dev"), {"article": "a", "summary": "b"}, "expected dev"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, row: dict[str, str], told: str
) -> None:
    write_data(**row)
    before = Path("params.yaml").read_bytes()
    assert init(monkeypatch, *args) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert Path("params.yaml").read_bytes() == before


def test_named_columns_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(frage="a", antwort="#### 3")
    columns = ("--column", "question_column=frage", "--column", "answer_column=antwort")
    assert init(monkeypatch, "--force", "--task", "gsm8k", *columns) == 0
    assert read_yaml(Path("params.yaml"))["task"]["settings"]["question_column"] == "frage"


def test_another_tokenizer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_model_dir: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
) -> None:
    write_data(article="a", summary="b")
    make_tokenizer(extra="<other>").save_pretrained(make_model_dir(Path("stranger")))
    assert init(monkeypatch, "--force", student="stranger") == 1
    assert "stranger: expected the tokenizer of the teacher teacher" in capsys.readouterr().err


def test_memory_that_the_device_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "_device_bytes", lambda: 10_000_000_000)
    sizes = {"teacher": 4_000_000_000, "student": 1_000_000_000}
    told = _memory(sizes, "bfloat16", cut=False)
    assert "scoring 8.0 GB, training 16.0 GB" in told[0]
    assert told[1:] == ["warning: training does not fit the device"]
    assert _memory(sizes, "float32", cut=False)[1] == "warning: scoring does not fit the device"
    assert "half of the teacher" in _memory(sizes, "float32", cut=True)[-1]
