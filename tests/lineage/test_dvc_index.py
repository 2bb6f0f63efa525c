"""pipeline.lineage.dvc_index: what dvc.lock records about the stages behind an output, on the real dvc.yaml."""

import re
from pathlib import Path

import pytest

from pipeline.lineage.dvc_index import load_index, stages_before, trace
from pipeline.runtime.errors import DataError
from tests.dvc_projects import make_dvc_project, record_stages

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # DVC's own use of pygtrie
MODEL = "work/a/r1/model"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the students `a` and `b` in which all stages have run."""
    root = make_dvc_project(tmp_path_factory.mktemp("projects") / "whole", students=["a", "b"], total_steps=10)
    record_stages(root)
    return root


def test_the_stages_behind_an_output_are_found(project: Path) -> None:
    record = trace(load_index(project), MODEL)
    assert record is not None
    assert record.stages == [
        *("generate", "init@a", "prepare", "rollout@a-r1", "score@a-r1", "score@corpus", "teacher", "train@a-r1")
    ]
    assert "schedule" not in record.parameters  # only the guard reads it as a whole
    assert record.parameters["optimizer.adam_beta1"] == 0.9
    assert record.parameters["student.a"]["model"] == "teacher"
    assert {"seed", "corpus", "teacher"} < set(record.parameters)
    assert "student.b" not in record.parameters
    assert list(record.parameters) == sorted(record.parameters)
    assert re.fullmatch(r"[0-9a-f]{32}\.dir", record.md5)


def test_a_stage_comes_after_those_that_write_into_its_directories(project: Path) -> None:
    index = load_index(project)
    (rollout,) = [stage for stage in index.stages if stage.name == "rollout@a-r1"]
    before = {stage.name for stage in stages_before(index.graph, rollout)}
    assert before == {"plan", "teacher", "prepare", "init@a"}  # init@a writes work/a/init/model, inside work/a/init


def test_the_code_is_the_code_of_the_stages_behind(project: Path) -> None:
    def code() -> str:
        record = trace(load_index(project), MODEL)
        assert record is not None
        return record.code

    before = code()
    for name, stage, changes in (("evaluation", "evaluate@a-r1", False), ("training", "train@a-r1", True)):
        (project / f"pipeline/{name}/content.py").write_text("2", encoding="utf-8")
        assert code() == before  # dvc.lock has what ran
        record_stages(project, stage)
        assert (code() != before) == changes


def test_an_output_that_no_stage_wrote_is_unknown(project: Path, tmp_path: Path) -> None:
    assert trace(load_index(project), "work/a/r2/model") is None
    assert trace(load_index(make_dvc_project(tmp_path / "new")), MODEL) is None


@pytest.mark.parametrize("content", [None, "", "schema: '2.0'\nstages:\n  teacher: {cmd: x}\n"])
def test_a_lock_may_be_missing_or_empty(tmp_path: Path, content: str | None) -> None:
    root = make_dvc_project(tmp_path / "new")
    if content is not None:
        (root / "dvc.lock").write_text(content, encoding="utf-8")
    index = load_index(root)
    assert [stage.name for stage in index.stages if any(out.hash_info for out in stage.outs)] == []
    assert {stage.name for stage in index.stages if stage.cmd_changed} == ({"teacher"} if content else set())


def test_a_damaged_lock_is_a_mistake(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "new")
    (root / "dvc.lock").write_text("stages: 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"dvc.yaml: expected a pipeline that DVC reads, got .*dvc.lock"):
        load_index(root)


def test_two_stages_that_write_the_same_file_are_a_mistake(tmp_path: Path) -> None:
    root = make_dvc_project(tmp_path / "new")
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    (root / "dvc.yaml").write_text(
        text.replace(
            "- work/corpus/rollouts.parquet\n    - work/costs/generate", "- work/plan.json\n    - work/costs/generate"
        ),
        encoding="utf-8",
    )
    with pytest.raises(DataError, match=r"dvc.yaml: expected a pipeline that DVC reads, got .*work/plan.json"):
        load_index(root)
