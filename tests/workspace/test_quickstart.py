"""`stillroom init`: a params.yaml that passes every check, or one line that says what does not fit."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.runtime.errors import ModelError
from pipeline.runtime.text import size_text
from pipeline.runtime.yaml_files import overlay_yaml, read_yaml
from pipeline.workspace.pair import _spread, open_pair
from pipeline.workspace.validation import check_params
from stages import _stage as command
from stages.cli.main import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher_dir: Path, student_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("teacher").symlink_to(teacher_dir)
    Path("student").symlink_to(student_dir)


def write_data(**row: str) -> None:
    Path("data").mkdir()
    for split in ("train", "test"):
        rows = [{name: f"{value} {number} of {split}" for name, value in row.items()} for number in range(4)]
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def init(monkeypatch: pytest.MonkeyPatch, *args: str, student: str = "student") -> int:
    arguments = ["--teacher", "teacher", "--student", student, "--data", "data", "--completions", "0", *args]
    monkeypatch.setattr(sys, "argv", ["stillroom", "init", *arguments])
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
def test_the_columns_decide_the_task_and_the_result_is_valid(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, str], task: str
) -> None:
    write_data(**row)
    assert init(monkeypatch, "--force") == 0
    check_params(Path("params.yaml"))
    written = read_yaml(Path("params.yaml"))
    assert (written["task"]["name"], written["teacher"]["model"]) == (task, "teacher")
    assert written["student"]["student"]["model"] == "student"
    assert written["task"]["template"]["chat"] is True
    assert len(read_yaml(Path("rounds.yaml"))["rounds"]) == 8
    assert "# Every parameter of the pipeline" in Path("params.yaml").read_text(encoding="utf-8")


def test_lengths_come_from_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(article="x" * 100, summary="y" * 40)
    assert init(monkeypatch, "--out", "other.yaml") == 0
    written = read_yaml(Path("other.yaml"))
    assert written["rollout"]["sampling"]["max_new_tokens"] == 64  # 40 bytes, " 0 of train", an end token
    assert written["task"]["max_prompt_tokens"] % 16 == 0
    assert 100 < written["task"]["max_prompt_tokens"] < 208
    assert not Path("rounds.yaml").exists()  # it belongs to params.yaml


def test_the_distance_of_a_ready_made_student_decides_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_model_dir: Callable[..., Path]
) -> None:
    write_data(article="a", summary="b")
    make_model_dir(Path("far"), seed=7, initializer_range=0.5)
    rates = {}
    for student in ("teacher/", "far"):  # the first is the teacher itself by another name
        assert init(monkeypatch, "--force", "--completions", "2", student=student) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("learning rate")]
        assert "nats from its teacher" in line
        rates[student] = read_yaml(Path("params.yaml"))["optimizer"]["learning_rate"]
    assert rates == {"teacher/": 1e-6, "far": 2e-5}


def test_held_out_cases_without_a_prompt_of_their_own_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(article="a", summary="b")
    questions = ["q", "q", "r", "x" * 400]
    rows = [json.dumps({"article": text, "summary": f"{n}"}) + "\n" for n, text in enumerate(questions)]
    Path("data/test.jsonl").write_text("".join(rows), encoding="utf-8")
    assert init(monkeypatch, "--force") == 0
    written = read_yaml(Path("params.yaml"))
    assert (written["task"]["heldout"], written["evaluation"]["prompts"]) == (2, 2)


def test_a_student_cut_from_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(article="a", summary="b")
    assert init(monkeypatch, "--force", student="teacher") == 0
    assert read_yaml(Path("params.yaml"))["student"]["student"]["layers"] == [0, 3]
    assert (_spread(30)[0], _spread(30)[-1], len(_spread(30))) == (0, 29, 15)


@pytest.mark.parametrize("linked", [True, False])
def test_the_disk_that_results_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], linked: bool
) -> None:
    """All students, the optimizers of two rounds, and what DVC's cache takes where it does not link to them."""
    write_data(article="a", summary="b")
    Path(".dvc").mkdir()
    first = "hardlink" if linked else "reflink"
    Path(".dvc/config").write_text(f'[cache]\n    type = "{first},copy"\n', encoding="utf-8")
    assert init(monkeypatch, "--force") == 0
    teacher, student = (
        sum(weight.numel() for weight in load_file(f"{name}/model.safetensors").values())
        for name in ("teacher", "student")
    )
    more = f"DVC's cache: {size_text(2 * teacher + 4 * student + 8 * 4 * student)} more"
    cached = "linked to DVC's cache" if linked else more
    rounds = f"8 rounds {size_text(8 * 4 * student)} ({cached})"
    kept = f"2 optimizers {size_text(2 * 8 * student)}, a round in training {size_text(8 * student)}"
    assert re.search(re.escape(f", {rounds}, {kept}, scores at most ") + ".*; .* are free\n", capsys.readouterr().out)
    assert read_yaml(Path("params.yaml"))["optimizer"]["keep_rounds"] == 2


@pytest.mark.parametrize(
    ("args", "row", "message"),
    [
        (("--force",), {"frage": "a", "antwort": "b"}, "got frage, antwort; name them"),
        (("--force", "--task", "poems"), {"article": "a", "summary": "b"}, "--task: expected one of: "),
        (("--force", "--heldout-split", "dev"), {"article": "a", "summary": "b"}, "expected dev"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: Any, row: dict[str, str], message: str
) -> None:
    write_data(**row)
    before = Path("params.yaml").read_bytes()
    assert init(monkeypatch, *args) == 1
    err = capsys.readouterr().err
    assert message in err
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
    make_tokenizer(reverse=True).save_pretrained(make_model_dir(Path("stranger")))
    assert init(monkeypatch, "--force", student="stranger") == 1
    assert "stranger: expected the tokenizer of the teacher teacher" in capsys.readouterr().err


def files(**contents: str) -> None:
    Path("data").mkdir()
    for name, text in contents.items():
        Path("data", name.replace("__", "-").replace("_", ".")).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("contents", "splits", "columns", "text"),
    [
        (  # Multi30k
            {"train_en": "a\nb\n", "train_de": "c\nd\n", "val_en": "e\n", "val_de": "f\n"},
            ("train", "val"),
            {"source_column": "en", "target_column": "de"},
            "Translate from en to de:\n\n{source}",
        ),
        (  # OpenNMT's sample of WMT
            {"src__train_txt": "a\n", "tgt__train_txt": "c\n", "src__val_txt": "e\n", "tgt__val_txt": "f\n"},
            ("train", "val"),
            {"source_column": "src", "target_column": "tgt"},
            "Translate:\n\n{source}",
        ),
        (  # WMT as the hub has it
            {
                "train_jsonl": '{"translation": {"de": "a", "en": "b"}}\n',
                "dev_jsonl": '{"translation": {"de": "c", "en": "d"}}\n',
            },
            ("train", "dev"),
            {"source_column": "translation.en", "target_column": "translation.de"},
            "Translate from en to de:\n\n{source}",
        ),
        (  # SciTLDR: a list of sentences is no sentence to translate
            {
                "train_jsonl": '{"source": ["a"], "target": ["b"]}\n',
                "dev_jsonl": '{"source": ["c"], "target": ["d"]}\n',
            },
            ("train", "dev"),
            {"document_column": "source", "summary_column": "target"},
            "Summarise in one or two sentences:\n\n{document}",
        ),
        (  # Alpaca: one file, whatever its name
            {"mine_json": json.dumps([{"instruction": f"do {n}", "input": "", "output": "done"} for n in range(20)])},
            ("mine[:90%]", "mine[90%:]"),
            {
                "messages_column": None,
                "instruction_column": "instruction",
                "input_column": "input",
                "output_column": "output",
            },
            "{request}",
        ),
    ],
)
@pytest.mark.filterwarnings("default")
def test_splits_and_columns_are_found(
    monkeypatch: pytest.MonkeyPatch,
    contents: dict[str, str],
    splits: tuple[str, str],
    columns: dict[str, str],
    text: str,
) -> None:
    files(**contents)
    assert init(monkeypatch, "--force") == 0
    check_params(Path("params.yaml"))
    task = read_yaml(Path("params.yaml"))["task"]
    assert (task["settings"]["train_split"], task["settings"]["heldout_split"]) == splits
    assert {key: task["settings"].get(key) for key in columns} == columns
    assert task["template"]["text"] == text


def test_a_file_stands_for_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f'{{"question": "{n}", "answer": "1"}}\n' for n in range(20))
    files(a_jsonl=rows, b_jsonl="{}\n")
    assert init(monkeypatch, "--force", "--data", "data/a.jsonl") == 0
    settings = read_yaml(Path("params.yaml"))["task"]["settings"]
    assert (settings["data"], settings["train_split"]) == ("data", "a[:90%]")


def test_splits_that_cannot_be_inferred_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files(a_jsonl="{}\n", b_jsonl="{}\n")
    assert init(monkeypatch, "--force") == 1
    assert "data: expected a split `train`, got a, b; name them with --train-split" in capsys.readouterr().err


def test_tasks_that_need_no_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        (ROOT / "presets/arithmetic-tiny.yaml").read_text(encoding="utf-8").replace("problems: 20000", "problems: 400")
    )
    Path("presets/arithmetic-tiny.yaml").write_text(text, encoding="utf-8")
    arguments = ["--teacher", "teacher", "--student", "student", "--force", "--completions", "0"]
    monkeypatch.setattr(sys, "argv", ["stillroom", "init", *arguments, "--task", "arithmetic"])
    with pytest.raises(SystemExit) as caught:
        command.run(commands)
    assert not caught.value.code
    check_params(Path("params.yaml"))
    assert read_yaml(Path("params.yaml"))["task"]["settings"]["problems"] == 400
    monkeypatch.setattr(sys, "argv", ["stillroom", "init", *arguments])
    with pytest.raises(SystemExit):
        command.run(commands)
    assert "--data: expected a data set, got none; add --data, or --task with one of" in capsys.readouterr().err


def test_comments_stay_unless_they_are_about_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    gsm8k = overlay_yaml(ROOT / "presets/default.yaml", ROOT / "presets/gsm8k.yaml")
    Path("params.yaml").write_text(gsm8k, encoding="utf-8")
    write_data(article="a", summary="b")
    assert init(monkeypatch, "--force") == 0
    written, before = (
        Path("params.yaml").read_text(encoding="utf-8"),
        (ROOT / "presets/default.yaml").read_text(encoding="utf-8"),
    )
    assert "Preset" not in written
    assert "gsm8k" not in written.lower()
    lost = {line for line in before.splitlines() if line.startswith("#")} - set(written.splitlines())
    assert lost == set()


def test_a_t5_is_cut_on_both_sides(monkeypatch: pytest.MonkeyPatch, make_t5_dir: Callable[..., Path]) -> None:
    Path("teacher").unlink()
    make_t5_dir(Path("teacher"), layers=4, seed=1)
    write_data(article="a", summary="b")
    assert init(monkeypatch, "--force", student="teacher") == 0
    cut = read_yaml(Path("params.yaml"))["student"]["student"]["layers"]
    assert set(cut) == {"encoder", "decoder"}
    assert cut["encoder"] == [0, 3]


def test_an_edited_params_yaml_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(article="a", summary="b")
    assert init(monkeypatch) == 0  # params.yaml was a preset as it was written
    assert init(monkeypatch) == 1
    message = "params.yaml: expected a preset as it was written, got changes to it; keep a copy and add --force"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", ["sft", "teacher"])
def test_nothing_of_a_method_stays(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    write_data(article="a", summary="b")
    assert init(monkeypatch, "--out", "plain.yaml") == 0
    overlays = (Path(f"presets/{name}.yaml") for name in ("docstrings", f"methods/{method}"))
    Path("params.yaml").write_text(overlay_yaml(Path("presets/default.yaml"), *overlays), encoding="utf-8")
    assert init(monkeypatch) == 0
    assert read_yaml(Path("params.yaml")) == read_yaml(Path("plain.yaml"))


def test_a_table_with_earlier_messages_is_a_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(instruction="do", output="done", system="be brief", source="the web")
    assert init(monkeypatch, "--force") == 0
    assert read_yaml(Path("params.yaml"))["task"]["template"]["text"] is None
    assert "not used: source\n" in capsys.readouterr().out


def test_a_configuration_that_makes_no_model_is_one_line(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "model")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"rope_scaling": {"type": "weird", "factor": 2.0}})
    (path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="--teacher: expected a model, got KeyError"):
        open_pair(str(path), "teacher", fresh=False, lora=False, read=False)


@pytest.mark.parametrize("role", ["--teacher", "--student"])
def test_codes_instead_of_weights_are_refused_before_any_weight_is_read(
    role: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_model_dir(tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(torch.int8)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    pair = (str(path), "teacher") if role == "--teacher" else ("teacher", str(path))
    with pytest.raises(ModelError, match=f"{role}: expected weights that are not quantised, .* got I8 numbers"):
        open_pair(*pair, fresh=False, lora=False, read=False)
