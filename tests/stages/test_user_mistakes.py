"""Mistakes that users make: every wrong `stillroom init` and every broken params.yaml is one line, and no traceback."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.runtime.yaml_files import write_yaml
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from stages import _stage as command
from stages import plan
from stages.cli.main import commands
from tests.project import PARAMS, write_questions

ROOT = Path(__file__).parents[2]
INIT = {"--teacher": "teacher", "--student": "student", "--data": "data", "--completions": "0"}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path, student_dir: Path) -> None:
    """A project in the current directory, with a teacher, a student and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("STILLROOM_STORE", str(tmp_path / "store"))
    shutil.copytree(ROOT / "presets", "presets")
    write_questions(Path("data"))
    for name, source in (("teacher", teacher_dir), ("student", student_dir), ("models/teacher", teacher_dir)):
        shutil.copytree(source, name)
    shutil.copy(ROOT / "params.yaml", "params.yaml")


def outcome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: object, *args: str) -> str:
    """Run a command that has to fail, and return what it prints to stderr."""
    monkeypatch.setattr(sys, "argv", ["stillroom", *args])
    with pytest.raises(SystemExit) as caught:
        command.run(program)  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert caught.value.code in (1, 2), err
    assert "Traceback" not in err
    if caught.value.code == 1:
        assert err.startswith("error: "), err
        assert err.count("\n") == 1
    else:
        assert err.startswith("Usage: "), err
    return err


def write(name: str, text: str | bytes) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)


def only_directory(name: str) -> None:
    Path(name).mkdir()


def other_vocabulary(make: Callable[..., Path], tokenizer: Callable[..., object]) -> None:
    make(Path("stranger"))
    tokenizer(reverse=True).save_pretrained("stranger")  # type: ignore[attr-defined]


INIT_MISTAKES: dict[str, tuple[dict[str, str | None], Callable[[], object] | None, str]] = {
    "no teacher": ({"--teacher": None}, None, "Missing option '--teacher'"),
    "teacher typo": ({"--teacher": "./teacherr"}, None, "nothing at './teacherr'; correct the path"),
    "teacher absolute typo": ({"--teacher": "/nowhere/model"}, None, "nothing at '/nowhere/model'"),
    "teacher hub typo": ({"--teacher": "HuggingFaceTB/SmolLM-135"}, None, "not in the hub's cache"),
    "teacher no name": ({"--teacher": ""}, None, "--teacher: "),
    "teacher bad name": ({"--teacher": "my model!"}, None, "--teacher: "),
    "teacher gguf": ({"--teacher": "models/x.gguf"}, None, "expected a file at models/x.gguf"),
    "teacher package": ({"--teacher": "package:llm_nothing/x.gguf"}, None, "expected package llm_nothing"),
    "teacher is a file": ({"--teacher": "data/train.jsonl"}, None, "the file data/train.jsonl"),
    "teacher directory of images": (
        {"--teacher": "pictures"},
        lambda: write("pictures/a.png", b"\x89PNG\r\n"),
        "pictures with a.png",
    ),
    "teacher empty directory": ({"--teacher": "empty"}, lambda: only_directory("empty"), "empty with no file"),
    "teacher no config": ({}, lambda: Path("teacher/config.json").unlink(), "--teacher: expected"),
    "teacher broken config": ({}, lambda: write("teacher/config.json", "{"), "teacher/config.json ("),
    "teacher unknown type": (
        {},
        lambda: write("teacher/config.json", '{"model_type": "zzz"}'),
        "teacher/config.json (",
    ),
    "teacher no weights": ({}, lambda: Path("teacher/model.safetensors").unlink(), "teacher without weights"),
    "teacher no tokenizer": (
        {},
        lambda: [Path(f"teacher/{name}").unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "teacher without a tokenizer",
    ),
    "teacher broken tokenizer": ({}, lambda: write("teacher/tokenizer.json", "{"), "expected a tokenizer, got"),
    "teacher damaged weights": (
        {"--completions": "2"},
        lambda: write("teacher/model.safetensors", b"x" * 64),
        "--teacher: expected",
    ),
    "student typo": ({"--student": "./studnet"}, None, "--student: expected"),
    "student of no config": ({"--student": "data"}, None, "data with test.jsonl, train.jsonl"),
    "fresh and lora": ({"--fresh": "", "--lora": ""}, None, "--fresh: expected no --lora beside it"),
    "unknown option": ({"--studnet": "x"}, None, "No such option"),
    "negative completions": ({"--completions": "-1"}, None, "Invalid value for '--completions'"),
    "completions no number": ({"--completions": "many"}, None, "Invalid value for '--completions'"),
    "no data": ({"--data": None}, None, "--data: expected a data set, got none"),
    "data empty name": ({"--data": ""}, None, "--data: expected a data set"),
    "data typo": ({"--data": "./dta"}, None, "./dta"),
    "data is an empty directory": ({"--data": "empty"}, lambda: only_directory("empty"), "empty"),
    "data directory of images": ({"--data": "pictures"}, lambda: write("pictures/a.png", b"\x89PNG"), "pictures"),
    "data file is empty": ({"--data": "mine.jsonl"}, lambda: write("mine.jsonl", ""), "expected"),
    "data one row": (
        {"--data": "mine.jsonl"},
        lambda: write("mine.jsonl", '{"question": "a", "answer": "1"}\n'),
        "expected at least 2 rows, one of them to hold out, got 1",
    ),
    "data broken line": ({}, lambda: write("data/train.jsonl", '{"question": "a",\n'), "train.jsonl"),
    "data binary": ({"--data": "mine.csv"}, lambda: write("mine.csv", bytes(range(256)) * 8), "mine.csv"),
    "data spreadsheet": ({"--data": "mine.xlsx"}, lambda: write("mine.xlsx", b"PK\x03\x04"), "mine.xlsx"),
    "data same rows": (
        {"--data": "mine.jsonl"},
        lambda: write("mine.jsonl", '{"question": "a", "answer": "1"}\n' * 30),
        "expected a training case",
    ),
    "data other columns": (
        {},
        lambda: [write(f"data/{split}.jsonl", '{"colour": "red"}\n') for split in ("train", "test")],
        "expected columns for",
    ),
    "data wrong type": (
        {"--column": "question_column=answer_column"},
        None,
        "expected a column 'answer_column'",
    ),
    "column without =": ({"--column": "question"}, None, "expected FIELD=COLUMN, got 'question'"),
    "column without a name": ({"--column": "=question"}, None, "expected FIELD=COLUMN"),
    "column unknown field": ({"--column": "frage=question"}, None, "--column: expected one of: "),
    "unknown task": ({"--task": "poems"}, None, "--task: expected one of: "),
    "task of other columns": ({"--task": "translation"}, None, "expected columns for translation"),
    "unknown split": ({"--train-split": "training"}, None, "training"),
    "out is a directory": ({"--out": "data"}, None, "Invalid value for '--out'"),
    "out is there": (
        {"--out": "params.yaml", "--force": None},
        lambda: write("params.yaml", "seed: 1\n"),
        "params.yaml",
    ),
    "out below a file": ({"--out": "params.yaml/x.yaml"}, None, "expected a file that can be written"),
}


@pytest.mark.parametrize("name", INIT_MISTAKES)
def test_a_wrong_init_is_one_line_and_writes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, prepare, expected = INIT_MISTAKES[name]
    if prepare is not None:
        prepare()
    before = Path("params.yaml").read_bytes()
    options: dict[str, str | None] = {**INIT, "--force": "", **changes}
    args = [
        part
        for key, value in options.items()
        if value is not None
        for part in ([key, value] if value or key in ("--teacher", "--data") else [key])
    ]
    assert expected in outcome(monkeypatch, capsys, commands, "init", *args)
    assert Path("params.yaml").read_bytes() == before
    assert not Path("rounds.yaml").exists()


def test_a_student_of_another_family_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_model_dir: Callable[..., Path],
    make_tokenizer: Callable[..., object],
) -> None:
    other_vocabulary(make_model_dir, make_tokenizer)
    capsys.readouterr()
    args = [part for pair in (INIT | {"--student": "stranger"}).items() for part in pair]
    assert "expected the tokenizer of the teacher" in outcome(monkeypatch, capsys, commands, "init", *args, "--force")


def edited(*keys: str, to: object) -> Callable[[], object]:
    """Return what writes the small project's parameters with another value."""

    def change() -> None:
        document = json.loads(json.dumps(PARAMS))
        target = document
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to
        write_yaml(Path("params.yaml"), document, comment="Of a test.")

    return change


def removed(name: str) -> Callable[[], object]:
    remaining = {key: value for key, value in PARAMS.items() if key != name}
    return lambda: write_yaml(Path("params.yaml"), remaining, comment="Of a test.")


def text(change: Callable[[str], str]) -> Callable[[], object]:
    """Return what changes the text of the small project's parameters."""

    def write_changed() -> None:
        write_yaml(Path("params.yaml"), PARAMS, comment="Of a test.")
        write("params.yaml", change(Path("params.yaml").read_text(encoding="utf-8")))

    return write_changed


PARAMS_MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no file": (lambda: Path("params.yaml").unlink(), "params.yaml: expected a file, got nothing"),
    "a directory": (lambda: [Path("params.yaml").unlink(), only_directory("params.yaml")], "params.yaml: expected"),
    "empty": (lambda: write("params.yaml", ""), "params.yaml: expected a mapping"),
    "a list": (lambda: write("params.yaml", "- a\n- b\n"), "params.yaml: expected a mapping"),
    "a word": (lambda: write("params.yaml", "hello\n"), "params.yaml: expected a mapping"),
    "only comments": (lambda: write("params.yaml", "# nothing\n"), "params.yaml: expected a mapping"),
    "a tab": (text(lambda t: t.replace("  total_steps", "\ttotal_steps")), "params.yaml: expected YAML"),
    "a bracket is open": (text(lambda t: t + "\nmore: [1, 2\n"), "params.yaml: expected YAML"),
    "a colon is missing": (text(lambda t: t.replace("total_steps: 4", "total_steps 4")), "params.yaml: expected YAML"),
    "a key twice": (text(lambda t: t + "\nseed: 1\n"), "params.yaml: expected YAML"),
    "two documents": (text(lambda t: t + "\n---\nseed: 1\n"), "params.yaml: expected YAML"),
    "a python tag": (text(lambda t: t.replace("seed: 0", "seed: !!python/name:os.system")), "expected YAML"),
    "latin-1": (lambda: write("params.yaml", "seed: 0  # f\xfcr\n".encode("latin-1")), "params.yaml: expected"),
    "binary": (lambda: write("params.yaml", bytes(range(256))), "params.yaml: expected"),
    "no seed": (removed("seed"), "seed: expected int, got nothing"),
    "no student": (removed("student"), "student: expected"),
    "unknown section": (edited("trainer", to={}), "trainer: expected one of: "),
    "unknown key": (edited("optimizer", "lr", to=1e-4), "optimizer.lr: expected one of: "),
    "an old name": (edited("scoring", "publish_every", to=4), "rename it to flush_every"),
    "text for a number": (edited("optimizer", "learning_rate", to="1e-4"), "expected float, got '1e-4' (str)"),
    "a number for text": (edited("task", "name", to=3), "task.name: expected str, got 3"),
    "a list for a number": (edited("seed", to=[1]), "seed: expected int"),
    "true for a number": (edited("schedule", "total_steps", to=True), "schedule.total_steps: expected int"),
    "null for a section": (edited("batches", to=None), "batches: expected"),
    "a section that is a list": (edited("rollout", to=[1]), "rollout: expected"),
    "a negative number": (edited("rollout", "prompts", to=-1), "rollout.prompts: expected >= 0"),
    "zero steps": (edited("schedule", "total_steps", to=0), "schedule.total_steps: expected >= 1"),
    "infinite": (edited("optimizer", "learning_rate", to=float("inf")), "learning_rate: expected a finite number"),
    "not a number": (edited("optimizer", "learning_rate", to=float("nan")), "optimizer.learning_rate: expected"),
    "nan as a fraction": (edited("batches", "student_fraction", to=float("nan")), "batches.student_fraction: expected"),
    "a huge number": (edited("schedule", "total_steps", to=10**30), "schedule.total_steps: expected"),
    "unknown task": (edited("task", "name", to="poems"), "task.name: expected one of: "),
    "unknown student": (edited("students", to=["large"]), "students: expected names out of: small, got 'large'"),
    "students as text": (edited("students", to="small"), "students: expected a list, got 'small'"),
    "a student twice": (edited("students", to=["small", "small"]), "students: expected each name once"),
    "no students": (edited("students", to=[]), "students: expected at least one name"),
    "a student that is a word": (edited("student", "small", to="teacher"), "student.small: expected"),
    "student of a wrong name": (edited("student", "small", "model", to="./nowhere"), "student.small.model: expected"),
    "lora: true": (edited("student", "small", "lora", to=True), "student.small.lora: expected"),
    "lora rank 0": (edited("student", "small", "lora", to={"r": 0}), "student.small.lora.r: expected >= 1"),
    "a student's optimizer": (edited("student", "small", "optimizer", to={"lr": 1}), "student.small.optimizer.lr: "),
    "teacher of a wrong name": (edited("teacher", "model", to="models/techer"), "teacher.model: expected"),
    "data of a wrong name": (edited("task", "settings", "data", to="./dta"), "./dta: expected a file or dir"),
    "a column of a wrong name": (edited("task", "settings", "answer_column", to="antwort"), "a column 'antwort'"),
    "a split of a wrong name": (edited("task", "settings", "heldout_split", to="dev"), "data: expected dev{"),
    "a field of a wrong name": (edited("task", "template", "text", to="{frage}"), "task.template.text: expected"),
    "a brace is open": (edited("task", "template", "text", to="{question"), "task.template.text: expected"),
    "a context that is too short": (edited("task", "max_prompt_tokens", to=511), "expected at most 512 tokens"),
    "a codec that there is not": (edited("scoring", "codec", to="zip"), "scoring.codec: expected one of: "),
    "a reward that there is not": (edited("reward", to={"beauty": 1.0}), "expected one of: "),
    "a decay that is too short": (edited("optimizer", "lr_scheduler_type", to="sawtooth"), "expected one of: "),
}


@pytest.mark.parametrize("name", PARAMS_MISTAKES)
def test_a_broken_params_yaml_is_one_line_of_the_first_stage(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rounds(Path("rounds.yaml"), ScheduleParams(**PARAMS["schedule"]), PARAMS["students"], PARAMS["sft"])
    change, expected = PARAMS_MISTAKES[name]
    change()
    assert expected in outcome(monkeypatch, capsys, plan.main)


def test_the_parameters_that_are_broken_above_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    write_rounds(Path("rounds.yaml"), ScheduleParams(**PARAMS["schedule"]), PARAMS["students"], PARAMS["sft"])
    edited("seed", to=0)()
    plan.main.main([], standalone_mode=False)
    assert Path("work/plan.json").is_file()
