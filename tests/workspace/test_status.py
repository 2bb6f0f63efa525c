"""pipeline.workspace.status: what is done, what runs again, and what the rest takes, on the real dvc.yaml."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.lineage.dvc_index import load_index
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import write_json
from pipeline.runtime.layout import Layout, cost_names
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.status import Job, as_text, find_jobs, with_seconds, worse_messages
from tests.dvc_projects import make_dvc_project, record_stages

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # DVC's own use of pygtrie
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the student `a` in which all stages have run."""
    root = make_dvc_project(tmp_path_factory.mktemp("projects") / "whole")
    record_stages(root)
    return root


@pytest.fixture
def project(whole_project: Path, tmp_path: Path) -> Path:
    """A copy of that project for a test to change."""
    return Path(shutil.copytree(whole_project, tmp_path / "project"))


def states(root: Path) -> dict[str, str]:
    return {job.name: job.state for job in find_jobs(root, read_yaml(root / "rounds.yaml"))}


def test_a_stage_that_has_run_is_done_and_others_are_open(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "project")
    record_stages(root, "teacher", "prepare")
    by_name = states(root)
    assert {name for name, state in by_name.items() if state == "done"} == {"teacher", "prepare"}
    assert set(by_name.values()) == {"done", "open"}
    assert {"a-init", "a-init-evaluate", "a-r1-rollout", "a-r2-train", "corpus-score"} <= set(by_name)


def test_every_stage_of_a_finished_run_is_done(project: Path) -> None:
    assert set(states(project).values()) == {"done"}


@pytest.mark.parametrize("content", [None, ""])
def test_nothing_has_run_without_a_lock(project: Path, content: str | None) -> None:
    """An empty dvc.lock is what a kill of DVC leaves behind."""
    (project / "dvc.lock").unlink()
    if content is not None:
        (project / "dvc.lock").write_text(content, encoding="utf-8")
    assert set(states(project).values()) == {"open"}


def _edit_params(key: tuple[str, ...], value: Any) -> Change:
    return lambda root: (root / "params.yaml").write_text(
        edit_yaml(root / "params.yaml", {key: value}), encoding="utf-8"
    )


def _remove_section(root: Path) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(re.sub(r"^corpus:\n(  .*\n)*", "", text, flags=re.MULTILINE), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda root: (root / "stages/rollout.py").write_text("2", encoding="utf-8"), {"a-r1-rollout", "a-r2-rollout"}),
        (
            lambda root: (root / "pipeline/losses/content.py").write_text("2", encoding="utf-8"),
            {"a-r1-train", "a-r2-train"},
        ),
        (
            lambda root: (root / "pipeline/losses/more.py").write_text("", encoding="utf-8"),
            {"a-r1-train", "a-r2-train"},
        ),
        (lambda root: (root / "pipeline/losses/note.md").write_text("", encoding="utf-8"), set()),
        (lambda root: (root / "stages/generate.py").unlink(), {"generate"}),
        (_edit_params(("corpus", "references"), 3), {"generate"}),
        (_edit_params(("schedule", "total_steps"), 14), set()),
        (_remove_section, {"generate"}),
        (
            lambda root: (root / "dvc.yaml").write_text(
                (root / "dvc.yaml").read_text(encoding="utf-8").replace("stages.init", "stages.init -v"),
                encoding="utf-8",
            ),
            {"a-init"},
        ),
    ],
    ids=["file", "directory", "new file", "no code", "gone", "parameter", "other parameter", "no parameter", "command"],
)
def test_a_change_makes_a_stage_run_again(project: Path, change: Change, again: set[str]) -> None:
    change(project)
    by_name = states(project)
    assert {name for name, state in by_name.items() if state == "again"} == again
    assert "open" not in by_name.values()


def test_another_input_makes_a_stage_run_again(project: Path) -> None:
    """The rollouts of the first round came out differently, and what depends on them has not run since."""
    (project / "work/a/r1/rollouts.parquet").write_text("another", encoding="utf-8")
    record_stages(project, "rollout@a-r1")
    by_name = states(project)
    assert by_name["a-r1-rollout"] == "done"
    assert {name for name, state in by_name.items() if state == "again"} == {
        *("a-r1-score", "a-r1-train"),
        *("a-r2-rollout", "a-r2-train"),  # their input is the directory of the first round
    }
    assert (by_name["a-r1-evaluate"], by_name["corpus-score"]) == ("waits", "done")


def test_an_output_that_was_edited_is_written_again(project: Path) -> None:
    (project / "work/a/r2/rollouts.parquet").write_text("another", encoding="utf-8")
    assert states(project)["a-r2-rollout"] == "again"


def test_a_lost_output_is_open_and_later_stages_wait(project: Path) -> None:
    shutil.rmtree(project / "work/teacher")
    by_name = states(project)
    assert (by_name.pop("teacher"), by_name.pop("prepare")) == ("open", "waits")
    assert set(by_name.values()) == {"waits"}


def test_stages_wait_for_an_output_inside_a_directory_that_they_read(project: Path) -> None:
    shutil.rmtree(project / "work/a/r1/model")
    by_name = states(project)
    waiting = {"a-r1-evaluate", "a-r2-rollout", "a-r2-score", "a-r2-train", "a-r2-evaluate"}
    assert by_name["a-r1-train"] == "open"
    assert {name for name, state in by_name.items() if state == "waits"} == waiting
    assert "again" not in by_name.values()


def test_no_lock_of_dvc_is_needed(project: Path) -> None:
    """`dvc repro` holds both of these while it runs; the second one is of a living process."""
    from dvc.repo import Repo

    repo = Repo(str(project))
    with repo.lock:
        (project / ".dvc/tmp/rwlock").write_text(
            '{"work/a": {"write": {"pid": 1, "cmd": "dvc repro"}}}', encoding="utf-8"
        )
        assert set(states(project).values()) == {"done"}


def test_a_pipeline_that_dvc_cannot_read_is_a_mistake(project: Path) -> None:
    document = read_yaml(project / "rounds.yaml")
    (project / "rounds.yaml").unlink()
    with pytest.raises(DataError, match=r"dvc.yaml: expected a pipeline that DVC reads, got .*rounds.yaml"):
        find_jobs(project, document)


def test_seconds_follow_the_latest_of_the_kind() -> None:
    def job(name: str, kind: str, student: str | None, steps: int, state: Any) -> Job:
        return Job(name=name, kind=kind, student=student, round=None, steps=steps, state=state)

    jobs = [
        job("a-r1-train", "train", "a", 10, "done"),
        job("a-r2-train", "train", "a", 5, "open"),
        job("b-r1-train", "train", "b", 10, "open"),
        job("b-r1-score", "score", "b", 1, "open"),
        job("b-r1-rollout", "rollout", "b", 1, "again"),
        job("teacher-evaluate", "evaluate", None, 1, "done"),
        job("a-r1-evaluate", "evaluate", "a", 1, "open"),
    ]
    costs = {"a-r1-train": {"seconds": 20.0}, "teacher-evaluate": {"seconds": 3.0}}
    seconds = {job.name: job.seconds for job in with_seconds(jobs, costs, {"b-r1-score": 7.0})}
    assert seconds == {
        "a-r1-train": 20.0,
        "a-r2-train": 10.0,
        "b-r1-train": 20.0,
        "b-r1-score": 7.0,
        "b-r1-rollout": None,
        "teacher-evaluate": 3.0,
        "a-r1-evaluate": None,  # the teacher's own evaluation compares nothing
    }


def test_the_text_has_a_row_per_round_and_what_is_left(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "project")
    jobs = find_jobs(root, read_yaml(root / "rounds.yaml"))
    assert [job.steps for job in jobs if job.kind == "train"] == [10, 5]
    left = {"stages": 15, "seconds": 61.4, "teacher_positions": 1200, "store_bytes": None, "worse": ["a r1 is worse"]}
    disk = {"models": 2_000_000, "optimizers": 4_000_000, "copies": 0, "passing": 1_000_000}
    left |= {"disk": disk, "free_bytes": 5_000_000}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in as_text(jobs, left).splitlines()]
    assert ["a", "r2", "open", "open", "open", "open"] in rows
    assert ["a", "init", "", "", "", "open"] in rows
    text = as_text(jobs, left)
    assert "about 61 s" in text
    assert "an unknown size in the store" in text
    sizes = "students take 2.0 MB, optimizers 4.0 MB, their copies in DVC's cache 0 bytes, a round in training 1.0 MB"
    assert f"\ndisk: {sizes}; 5.0 MB are free\n" in text
    assert "disk: students and optimizers take an unknown size; 5.0" in as_text(jobs, left | {"disk": None})
    assert text.splitlines()[-1] == "warning: a r1 is worse"
    assert as_text(jobs, left | {"stages": 0, "worse": []}).endswith("\nall stages are done")


def test_the_latest_evaluation_says_whether_a_student_became_worse(project: Path) -> None:
    layout, jobs = Layout(project), find_jobs(project, read_yaml(project / "rounds.yaml"))
    for name, message in (("a-init", None), ("a-r1", "r1 is worse"), ("a-r2", "r2 is worse")):
        write_json(layout.evaluation(name), {"worse": message})
    assert worse_messages(jobs, layout) == ["r2 is worse"]
    unfinished = [job for job in jobs if job.name != "a-r2-evaluate"]
    assert worse_messages(unfinished, layout) == ["r1 is worse"]
    write_json(layout.evaluation("a-r1"), {})  # of an earlier version
    assert worse_messages(unfinished, layout) == []


def test_stages_wait_for_supervised_fine_tuning(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "project", students=["a", "b"], tuned=["teacher", "a"])
    document = read_yaml(root / "rounds.yaml")
    jobs = find_jobs(root, document)
    assert [job.name for job in jobs] == cost_names(document)
    assert len(jobs) == len(load_index(root).stages) - 2  # `plan` and `report` write no costs
    assert [(job.student, job.round) for job in jobs if job.kind == "sft"] == [(None, None), ("a", "init")]
    after = {job.name: job.after for job in jobs}
    assert after["teacher-sft"] == ("prepare", "teacher")
    assert "teacher-sft" in after["generate"]
    assert "teacher-sft" in after["a-init"]
    assert "a-init" in after["a-sft"]
    assert "a-sft" in after["a-init-evaluate"]
    assert "b-sft" not in after
