"""pipeline.runtime.resume: work continues after a kill, is published whole, and ends with its parent."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.runtime.atomic import publish, whole_directory
from pipeline.runtime.errors import UserError
from pipeline.runtime.resume import DONE, ROOT, resumable

ROOT_OF_PROJECT = Path(__file__).parents[2]


class InterruptedWorkError(Exception):
    """Stands for whatever ends a stage early."""


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


OUTPUTS = {"a.txt": Path("out/a.txt"), "model": Path("out/model")}


def finish(scratch: Path, text: str) -> None:
    """Make scratch/done in one rename, as a stage has to."""
    with whole_directory(scratch / DONE) as folder:
        (folder / "a.txt").write_text(text, encoding="utf-8")
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text, encoding="utf-8")


def test_what_is_complete_is_published_and_the_scratch_is_gone() -> None:
    with resumable(OUTPUTS, "inputs") as scratch:
        finish(scratch, "new")
    assert OUTPUTS["a.txt"].read_text(encoding="utf-8") == "new"
    assert (OUTPUTS["model"] / "weights").read_text(encoding="utf-8") == "new"
    assert [path for path in ROOT.glob("*/*") if path.is_dir()] == []


def test_outputs_of_an_earlier_run_are_replaced_whole() -> None:
    OUTPUTS["model"].mkdir(parents=True)
    (OUTPUTS["model"] / "shard-2").write_text("old", encoding="utf-8")
    with resumable(OUTPUTS, "inputs") as scratch:
        finish(scratch, "new")
    assert [path.name for path in OUTPUTS["model"].iterdir()] == ["weights"]


def test_an_interrupted_block_publishes_nothing_and_goes_on_next_time() -> None:
    with pytest.raises(InterruptedWorkError), resumable(OUTPUTS, "inputs") as scratch:
        (scratch / "step-1").write_text("done", encoding="utf-8")
        raise InterruptedWorkError
    assert not Path("out").exists()
    with resumable(OUTPUTS, "inputs") as scratch:
        assert (scratch / "step-1").read_text(encoding="utf-8") == "done"
        finish(scratch, "new")


def test_other_inputs_begin_anew_and_sweep_what_was_there() -> None:
    with pytest.raises(InterruptedWorkError), resumable(OUTPUTS, "inputs") as old:
        (old / "step-1").touch()
        raise InterruptedWorkError
    with resumable(OUTPUTS, "other inputs") as scratch:
        assert list(scratch.iterdir()) == []
        assert not old.exists()
        finish(scratch, "new")


def test_work_that_was_killed_before_publishing_is_not_done_again() -> None:
    with pytest.raises(InterruptedWorkError), resumable(OUTPUTS, "inputs") as scratch:
        finish(scratch, "new")
        raise InterruptedWorkError
    with resumable(OUTPUTS, "inputs") as scratch:
        assert (scratch / DONE).is_dir()
    assert OUTPUTS["a.txt"].read_text(encoding="utf-8") == "new"


def test_work_that_was_killed_while_publishing_begins_anew() -> None:
    with pytest.raises(InterruptedWorkError), resumable(OUTPUTS, "inputs") as scratch:
        finish(scratch, "new")
        publish(scratch / DONE / "a.txt", OUTPUTS["a.txt"])
        raise InterruptedWorkError
    OUTPUTS["a.txt"].unlink()
    with resumable(OUTPUTS, "inputs") as scratch:
        assert list(scratch.iterdir()) == []
        finish(scratch, "again")
    assert OUTPUTS["a.txt"].read_text(encoding="utf-8") == "again"


def test_two_processes_cannot_make_one_output() -> None:
    with resumable(OUTPUTS, "inputs") as scratch:
        with pytest.raises(UserError, match=r"expected no other process, got one that makes the same output; wait"):
            resumable(OUTPUTS, "inputs").__enter__()
        finish(scratch, "new")
    with resumable(OUTPUTS, "inputs") as scratch:
        finish(scratch, "newer")


def test_outputs_whose_paths_end_alike_have_scratches_of_their_own() -> None:
    names = [Path("work/a/b/r1/model"), Path("work/c/b/r1/model")]
    with (
        pytest.raises(InterruptedWorkError),
        resumable({"model": names[0]}, "x") as first,
        resumable({"model": names[1]}, "x") as second,
    ):
        assert first != second
        raise InterruptedWorkError


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("asked", ["in time", "too late"])
def test_a_stage_ends_when_its_parent_is_killed(asked: str) -> None:
    """Too late: the parent dies while the stage is still importing."""
    ask = "from pipeline.runtime.process import die_with_parent; die_with_parent()"
    lines = [ask, "print('ready', flush=True)"] if asked == "in time" else ["print('ready', flush=True); input()", ask]
    child = "; ".join([*lines, "import time", "time.sleep(60)"])
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT_OF_PROJECT,
        start_new_session=True,
        encoding="utf-8",
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (stage,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    if asked == "too late":  # in time, nobody may be left to read it
        process.stdin.write("go on\n")
    process.stdin.close()
    _, alive = psutil.wait_procs([stage], timeout=10)
    for survivor in alive:
        survivor.kill()
    assert not alive, "the stage outlived its parent"
    process.stdout.close()
