"""dvc.lock: what stands behind an output."""

from pathlib import Path
from typing import Any

from pipeline.lineage.dvc_lock import read_lock, trace


def stage(outs: list[str], deps: list[str], **params: Any) -> dict[str, Any]:
    return {
        "outs": [{"path": one, "md5": f"{one}.md5"} for one in outs],
        "deps": [{"path": one, "md5": f"{one}.md5"} for one in deps],
        "params": {"params.yaml": params},
    }


STAGES = {
    "plan": stage(["work/plan.json"], ["rounds.yaml"], everything=1),
    "teacher": stage(["work/teacher"], ["work/plan.json", "pipeline/t"], teacher="t"),
    "init": stage(["work/a/init/model"], ["work/teacher"], seed=0),
    "train": stage(["work/a/r1/model", "work/a/r1/optimizer.pt"], ["work/a/init", "pipeline/a"], optimizer={"lr": 1}),
    "other": stage(["work/b/init/model"], ["work/teacher", "pipeline/b"], other=1),
    "evaluate": stage(["work/evaluations/a.json"], ["work/a/r1/model"], evaluation=1),
}


def test_what_stands_behind_an_output() -> None:
    ran = trace(STAGES, "work/a/r1/model")
    assert ran is not None
    assert ran.stages == ["init", "teacher", "train"]  # `init` by the directory that holds its output
    assert ran.parameters == {"optimizer": {"lr": 1}, "seed": 0, "teacher": "t"}
    assert ran.md5 == "work/a/r1/model.md5"


def test_the_code_is_that_of_the_stages_behind() -> None:
    def code(**changes: Any) -> str:
        ran = trace(STAGES | changes, "work/a/r1/model")
        assert ran is not None
        return ran.code

    assert code() == code(other=stage(["work/b/init/model"], ["pipeline/c"]))
    assert code() != code(teacher=stage(["work/teacher"], ["work/plan.json", "pipeline/u"]))


def test_what_no_stage_made_is_unknown() -> None:
    assert trace(STAGES, "work/a/r2/model") is None
    assert trace({}, "work/a/r1/model") is None


def test_an_empty_or_missing_lock_knows_nothing(tmp_path: Path) -> None:
    assert read_lock(tmp_path) == {}
    (tmp_path / "dvc.lock").touch()
    assert read_lock(tmp_path) == {}
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  a: {cmd: x}\n")
    assert read_lock(tmp_path) == {"a": {"cmd": "x"}}
