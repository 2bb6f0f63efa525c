"""Stages in forks of one process: they end, fail and are interrupted as processes of their own do."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import PATIENCE, Project, make_project, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

PLAN = f"{sys.executable} -m stages.plan"


@pytest.fixture
def project(tmp_path: Path, make_model_dir: Callable[..., Path]) -> Project:
    return make_project(tmp_path / "project", make_model_dir)


def start(project: Project, commands: str, **env: str) -> "subprocess.Popen[str]":
    """Start a shell with these commands, and a fork for every stage among them."""
    code = f"from stages._forks import run_with_forks\nraise SystemExit(run_with_forks(['sh', '-c', {commands!r}]))"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=project.path,
        env=project.env | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def output_of(project: Project, commands: str, **env: str) -> tuple[int, str, str]:
    """Return the exit code and what is printed."""
    with start(project, commands, **env) as process:
        printed, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, printed, errors


def imports_of(module: str, errors: str) -> int:
    """Return how many processes imported a module, by what Python prints with PYTHONPROFILEIMPORTTIME."""
    return sum(line.rpartition("|")[2].strip() == module for line in errors.splitlines())


def test_stages_share_the_imports_of_one_process_and_keep_their_exit_codes(project: Project) -> None:
    commands = f"{PLAN}; echo $?; {PLAN} --nothing; echo $?; exit 3"
    code, printed, errors = output_of(project, commands, PYTHONPROFILEIMPORTTIME="1")
    assert (code, printed.splitlines()[-2:]) == (3, ["0", "2"]), errors
    assert "No such option" in errors
    assert (project.path / "work/plan.json").is_file()
    assert imports_of("torch", errors) == 1


def test_after_a_change_of_the_code_a_stage_runs_in_a_process_of_its_own(project: Project) -> None:
    changed = "echo '# changed' >> pipeline/workspace/validation.py"
    code, _, errors = output_of(project, f"{PLAN} && {changed} && {PLAN}", PYTHONPROFILEIMPORTTIME="1")
    assert code == 0, errors
    assert imports_of("pipeline.workspace.validation", errors) == 2


def test_code_that_cannot_be_imported_fails_as_without_forks(project: Project) -> None:
    (project.path / "pipeline/workspace/validation.py").write_text("1 +\n", encoding="utf-8")
    code, _, errors = output_of(project, PLAN)
    assert (code, errors.count("SyntaxError")) == (1, 1)


def test_a_mistake_of_the_user_is_one_line(project: Project) -> None:
    project.change("optimizer", "learning_rate", to="fast")
    code, _, errors = output_of(project, PLAN)
    assert code == 1
    assert errors == "error: optimizer.learning_rate: expected float, got 'fast' (str); fix params.yaml\n"


def test_a_stage_runs_itself_where_the_process_with_the_imports_is_gone(project: Project) -> None:
    code, _, errors = output_of(project, f"STILLROOM_FORKS=nothing {PLAN}")
    assert code == 0, errors
    assert (project.path / "work/plan.json").is_file()


def test_a_fork_ends_with_the_process_that_was_started_for_the_stage(project: Project) -> None:
    """A pipe without a writer in place of params.yaml: the stage waits for ever."""
    (project.path / "params.yaml").unlink()
    os.mkfifo(project.path / "params.yaml")
    with start(project, f"{PLAN} & echo $! > pid; wait $!; echo $? > code; exec sleep 60") as process:
        try:
            # Until it becomes the shell, the child that writes `pid` looks like a fork.
            wait_for(lambda: (project.path / "pid").is_file() and forks_of(project, process.pid) == 1)
            os.kill(int((project.path / "pid").read_text(encoding="utf-8")), signal.SIGKILL)
            wait_for(lambda: forks_of(project, process.pid) == 0 and (project.path / "code").is_file())
            assert process.poll() is None
        finally:
            process.kill()
    wait_for(lambda: not project.processes(), seconds=10)


def forks_of(project: Project, pid: int) -> int:
    """Return how many of the project's processes are forks of the process, whose other child is the shell's."""
    return sum(child.ppid() == pid and child.name() not in ("sh", "sleep") for child in project.processes())
