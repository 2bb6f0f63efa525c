"""`stillroom status`: what is done, what runs again, and what the rest takes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.jobs import Job, jobs
from pipeline.runtime.yaml_files import write_yaml
from pipeline.workspace.status import as_text, with_seconds, with_states

ROUNDS = [{"id": "r1", "steps": 10}, {"id": "r2", "steps": 5}]


def locked(name: str, *, deps: dict[str, str], params: dict[str, Any], out: str) -> dict[str, Any]:
    outs = [{"path": f"work/costs/{name}.json", "md5": "cost"}, {"path": f"work/{name}", "md5": out}]
    return {
        "outs": outs,
        "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
        "params": {"params.yaml": params},
    }


@pytest.fixture
def project(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A directory in which teacher and prepare have run, and its lock."""
    (tmp_path / "code.py").write_text("1")
    write_yaml(tmp_path / "params.yaml", {"seed": 0, "task": {"train": 3}}, comment="")
    code = {"code.py": hashlib.md5(b"1").hexdigest()}
    stages = {
        "teacher": locked("teacher", deps=code, params={}, out="t"),
        "prepare": locked("prepare", deps=code | {"work/teacher": "t"}, params={"seed": 0, "task.train": 3}, out="p"),
    }
    for name in ("teacher", "prepare"):
        for path in (f"work/costs/{name}.json", f"work/{name}"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    return tmp_path, stages


def states(root: Path, stages: dict[str, Any]) -> dict[str, str]:
    return {one.name: one.state for one in with_states(jobs(["a"], ROUNDS), root, stages)}


def test_what_has_run_is_done_and_the_rest_is_open(project: tuple[Path, dict[str, Any]]) -> None:
    found = states(*project)
    assert {name for name, one in found.items() if one == "done"} == {"teacher", "prepare"}
    assert set(found.values()) == {"done", "open"}
    assert {"a-init", "a-init-evaluate", "a-r1-rollout", "a-r2-train", "corpus-score"} <= set(found)


def test_nothing_has_run_where_there_is_no_lock(project: tuple[Path, dict[str, Any]]) -> None:
    assert set(states(project[0], {}).values()) == {"open"}


@pytest.mark.parametrize("change", ["code", "gone", "params", "missing", "input"])
def test_a_change_makes_a_stage_run_again(project: tuple[Path, dict[str, Any]], change: str) -> None:
    root, stages = project
    if change == "code":
        (root / "code.py").write_text("2")
    elif change == "gone":
        (root / "code.py").unlink()
    elif change == "params":
        write_yaml(root / "params.yaml", {"seed": 1, "task": {"train": 3}}, comment="")
    elif change == "missing":
        write_yaml(root / "params.yaml", {"task": {"train": 3}}, comment="")
    else:
        stages["teacher"]["outs"][1]["md5"] = "another"
    assert states(root, stages)["prepare"] == "again"


def test_a_lost_output_is_open_and_what_follows_waits(project: tuple[Path, dict[str, Any]]) -> None:
    root, stages = project
    (root / "work/teacher").unlink()
    found = states(root, stages)
    assert (found["teacher"], found["prepare"]) == ("open", "waits")


def test_seconds_follow_the_latest_of_the_kind() -> None:
    def job(name: str, kind: str, student: str | None, steps: int, state: Any) -> Job:
        return Job(name=name, kind=kind, student=student, round=None, steps=steps, state=state)

    todo = [
        job("a-r1-train", "train", "a", 10, "done"),
        job("a-r2-train", "train", "a", 5, "open"),
        job("b-r1-train", "train", "b", 10, "open"),
        job("b-r1-score", "score", "b", 1, "open"),
        job("b-r1-rollout", "rollout", "b", 1, "again"),
        job("teacher-evaluate", "evaluate", None, 1, "done"),
        job("a-r1-evaluate", "evaluate", "a", 1, "open"),
    ]
    costs = {"a-r1-train": {"seconds": 20.0}, "teacher-evaluate": {"seconds": 3.0}}
    found = {one.name: one.seconds for one in with_seconds(todo, costs, {"b-r1-score": 7.0})}
    assert found == {
        "a-r1-train": 20.0,
        "a-r2-train": 10.0,
        "b-r1-train": 20.0,
        "b-r1-score": 7.0,
        "b-r1-rollout": None,
        "teacher-evaluate": 3.0,
        "a-r1-evaluate": None,  # the teacher's own evaluation compares nothing
    }


def test_the_text_has_a_row_a_round_and_what_is_left() -> None:
    found = jobs(["a"], ROUNDS)
    left = {"stages": 15, "seconds": 61.4, "teacher_positions": 1200, "store_bytes": None, "cache_bytes": 0}
    text = as_text(found, left)
    assert "| a         |      r2 |      open |    open |    open |       open |" in text
    assert "| a         |    init |           |         |         |       open |" in text
    assert "about 61 s" in text
    assert "an unknown number of bytes in the store" in text
    assert "all stages are done" in as_text(found, left | {"stages": 0})


def test_who_is_tuned_is_waited_for() -> None:
    after = {one.name: one.after for one in jobs(["a", "b"], ROUNDS, ["teacher", "a"])}
    assert after["teacher-sft"] == ("prepare",)
    assert "teacher-sft" in after["generate"]
    assert "teacher-sft" in after["a-init"]
    assert "a-init" in after["a-sft"]
    assert "a-sft" in after["a-init-evaluate"]
    assert "b-sft" not in after
