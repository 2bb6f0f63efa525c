"""stages.cli.main: the `stillroom` command, and how every command reports mistakes and bugs."""

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json, write_rows
from pipeline.runtime.layout import round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from schemas.prompt import PROMPT
from stages import _stage as command
from stages._stage import cost, run
from stages.cli.main import commands

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)  # this process is no stage


def stillroom(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["stillroom", *args])
    with pytest.raises(SystemExit) as caught:
        run(commands)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_plan_writes_the_rounds_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = "schedule: {total_steps: 5, refresh_every: 2, max_staleness: null}"
    evaluation = "evaluation: {stop_if_worse: true}\n"
    Path("params.yaml").write_text(f"{schedule}\nstudents: [a]\nsft: {{}}\n{evaluation}", encoding="utf-8")
    assert stillroom(monkeypatch, "plan") == 0
    assert [round_["steps"] for round_ in round_list(read_yaml(Path("rounds.yaml")))] == [2, 2, 1]
    assert read_yaml(Path("rounds.yaml"))["rounds"]["a-r2"]["gate"] == "work/evaluations/verdicts/a-r1.json"


def test_plan_changes_the_schedule_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(before, encoding="utf-8")
    assert stillroom(monkeypatch, "plan", "--refresh-every", "5", "--total-steps", "15") == 0
    after = Path("params.yaml").read_text(encoding="utf-8")
    assert [round_["steps"] for round_ in round_list(read_yaml(Path("rounds.yaml")))] == [5, 5, 5]
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [after for _, after in changed] == ["  total_steps: 15", "  refresh_every: 5"]


def test_table_prints_the_last_runs_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("report").mkdir()
    Path("report/table.md").write_text("| model |\n", encoding="utf-8")
    assert stillroom(monkeypatch, "table") == 0
    assert capsys.readouterr().out == "| model |\n"


def test_best_prints_the_model_of_the_best_round_and_by_which_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = {f"small-{id_}": {"round": id_, "prev": "", "first_step": 0, "steps": 1} for id_ in ("r1", "r2")}
    write_yaml(Path("rounds.yaml"), {"rounds": rounds}, comment="Of a test.")
    objective = {"divergence": {"name": "reverse_kl"}, "cross_entropy": 0.0, "alpha": 1.0}
    write_yaml(Path("params.yaml"), {"objective": objective}, comment="Of a test.")

    def measured(id_: str, reverse_kl: float) -> None:
        metrics = {"reverse_kl": reverse_kl, "forward_kl": -reverse_kl}
        write_json(Path(f"work/evaluations/small-{id_}.json"), {"headline": "rouge_l", "metrics": metrics})

    for id_, distance in (("init", 0.1), ("r1", 2.0), ("r2", 1.0), ("r3", 0.5)):  # r3 is no longer of the schedule
        measured(id_, distance)
    capsys.readouterr()
    assert stillroom(monkeypatch, "best", "small") == 0
    assert capsys.readouterr() == ("work/small/r2/model\n", "r2 is best by reverse KL: 1.000\n")
    for id_ in ("r1", "r2"):
        measured(id_, math.nan)
    assert stillroom(monkeypatch, "best", "small") == 1
    assert stillroom(monkeypatch, "best", "other") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: work/evaluations: expected a finite reverse_kl, got none;")
    assert second.startswith("error: work/evaluations/other-r1.json: expected a file, got nothing;")


def test_query_answers_from_the_files_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("work/prompts").mkdir(parents=True)
    row = {"prompt_id": "a", "split": "train", "prompt_ids": [1, 2], "reference_ids": [3]}
    text = {"prompt_text": "x", "references": ["y"]}
    pq.write_table(pa.Table.from_pylist([row | text], schema=PROMPT), "work/prompts/train.parquet")
    sql = "select prompt_id, len(prompt_ids) as n from prompts"
    assert stillroom(monkeypatch, "query", sql) == 0
    assert capsys.readouterr().out == "| prompt_id   |   n |\n|:------------|----:|\n| a           |   2 |\n"
    assert stillroom(monkeypatch, "query", "--json", sql) == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt_id": "a", "n": 2}]


def test_query_finds_the_shared_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STILLROOM_STORE", "elsewhere")
    assert stillroom(monkeypatch, "query", "--json", "select count(*) as n from store") == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 0}]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["table"], "error: report/table.md: expected the table of a run, got nothing; run `make repro`\n"),
        (["plan"], "error: params.yaml: expected a file, got nothing; run in the project's root\n"),
        (["query", "select"], "error: query: expected SQL that DuckDB runs, got "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], line: str
) -> None:
    assert stillroom(monkeypatch, *args) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


def test_the_installed_command_ends_with_one_line_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "table"],
        capture_output=True,
        text=True,
        check=False,
        env=_env(),
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert done.stderr == "error: report/table.md: expected the table of a run, got nothing; run `make repro`\n"


def test_a_stage_reports_a_mistake_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    Path("params.yaml").write_text(
        (ROOT / "params.yaml").read_text(encoding="utf-8").replace("seed: 0", "sede: 0"), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.plan"], capture_output=True, text=True, check=False, env=_env(), encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: sede: expected one of: seed, schedule, ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def failing(action: Callable[[], object]) -> click.Command:
    return click.Command("fails", callback=action)


def failure(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> object:
    monkeypatch.setattr(sys, "argv", ["fails"])
    with pytest.raises(SystemExit) as caught:
        run(failing(action))
    return caught.value.code


def test_a_message_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UserError("here", expected="a", got="several\n  lines", remedy="fix it")
    assert failure(monkeypatch, raising(error)) == 1
    assert capsys.readouterr().err == "error: here: expected a, got several lines; fix it\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fails"])
    with pytest.raises(ZeroDivisionError):
        run(failing(lambda: 1 // 0))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
    ids=["system", "quota", "safetensors", "torch"],
)
def test_a_full_disk_is_one_line_whoever_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception
) -> None:
    """The libraries raised these errors on a full disk. Some of them would replace a device that is always full."""
    _free_bytes(monkeypatch, 0)
    assert failure(monkeypatch, raising(error)) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path}: expected free space, got a full disk (")
    assert err.endswith("); free some and run `make repro` again\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("file write failed"), OSError(errno.EACCES, "Permission denied")])
def test_other_failures_to_write_are_not_blamed_on_the_disk(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _free_bytes(monkeypatch, 1 << 40)
    monkeypatch.setattr(sys, "argv", ["fails"])
    with pytest.raises(type(error), match=str(error.args[-1])):
        run(failing(raising(error)))


def raising(error: Exception) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


def _free_bytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


def test_a_cost_is_written_when_the_work_ended_well() -> None:
    with cost("small-r1-train") as entry:
        entry["tokens"] = 7
    written = json.loads(Path("work/costs/small-r1-train.json").read_text(encoding="utf-8"))
    assert set(written) == {"tokens", "seconds", "processor_seconds", "commit", "dirty"}
    assert (written["commit"], written["dirty"]) == (None, None)  # no repository here
    assert written["tokens"] == 7
    assert 0 <= written["seconds"] < 5
    with pytest.raises(ZeroDivisionError), cost("small-r2-train"):
        raise ZeroDivisionError
    assert [path.name for path in Path("work/costs").iterdir()] == ["small-r1-train.json"]


def test_a_cost_records_the_commit_and_whether_the_code_was_altered() -> None:
    def git(*args: str) -> str:
        done = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(done, check=True, capture_output=True, text=True, encoding="utf-8").stdout.strip()

    def code_version() -> tuple[str, bool]:
        with cost("teacher"):
            pass
        written = json.loads(Path("work/costs/teacher.json").read_text(encoding="utf-8"))
        return written["commit"], written["dirty"]

    git("init", "-q")
    Path("code.py").write_text("1", encoding="utf-8")
    Path("dvc.lock").write_text("1", encoding="utf-8")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    Path("dvc.lock").write_text("2", encoding="utf-8")  # as every run does
    Path("untracked").write_text("", encoding="utf-8")
    assert code_version() == (commit, False)
    Path("code.py").write_text("2", encoding="utf-8")
    assert code_version() == (commit, True)


def test_an_empty_view_has_its_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(Path("work/prompts/train.parquet"), [], PROMPT)
    assert stillroom(monkeypatch, "query", "select prompt_id, split from prompts") == 0
    assert capsys.readouterr().out.startswith("| prompt_id   | split   |\n")
