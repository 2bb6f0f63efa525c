"""The Makefile's guards, tried on a project that holds nothing but the Makefile and an environment of fakes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Set up already, with commands that say their name."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements/lock.txt", "requirements/teacher.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("dvc", "stillroom"):
        command = tmp_path / ".venv/bin" / name
        command.write_text(f'#!/bin/sh\necho "{name} $*"\n', encoding="utf-8")
        command.chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def make(project: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    # The make that runs the tests exports its own settings and those of its command line.
    outer = ("MAKE", "PYTHON", "VENV", "UV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    env["PATH"] = f"{project / 'bin'}{os.pathsep}{env['PATH']}"  # commands of a test come before those of the machine
    return subprocess.run(
        ["make", *args], cwd=project, env=env, capture_output=True, text=True, check=False, encoding="utf-8"
    )


def test_repro_runs_dvc_of_the_environment_and_shows_the_table(project: Path) -> None:
    (project / "dvc.lock").write_text("stages:\n", encoding="utf-8")
    done = make(project, "repro")
    assert (done.returncode, done.stdout) == (0, "stillroom repro\nstillroom table\n")
    assert (project / "dvc.lock").exists()


def test_no_table_is_shown_when_dvc_fails(project: Path) -> None:
    (project / ".venv/bin/stillroom").write_text("#!/bin/sh\n[ $1 = repro ] && exit 3; echo $1\n", encoding="utf-8")
    done = make(project, "repro")
    assert done.returncode != 0
    assert done.stdout == ""


def test_another_python_is_refused_in_one_line_and_nothing_is_made(project: Path) -> None:
    shutil.rmtree(project / ".venv")
    fake = project / "python"
    fake.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    done = make(project, f"PYTHON={fake}", "setup")
    assert done.returncode != 0
    assert done.stdout == (
        f"error: python: expected Python 3.11, 3.12 or 3.13, got {fake}; "
        "install one or run make PYTHON=/path/to/python3.11\n"
    )
    assert not (project / ".venv").exists()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_the_first_python_that_is_supported_and_runs_is_taken(project: Path) -> None:
    """Such as 3.12, where the command python3.11 is a shim of pyenv that fails."""
    shutil.rmtree(project / ".venv")
    executable(project / "bin/python3.11", "exit 127")
    chosen = executable(project / "bin/python3.12", "exit 0")
    for name in ("python3.13", "python3", "python"):
        executable(project / "bin" / name, "exit 1")
    done = make(project, "-n", "UV=", "setup")
    assert f'"{chosen}" -m venv .venv' in done.stdout


def test_uv_installs_where_it_is_installed(project: Path) -> None:
    (project / ".venv/.ready").unlink()
    uv = executable(project / "bin/uv", 'echo "$0 $*" >> uv.log')
    done = make(project, "setup")
    assert done.returncode == 0, done.stderr
    calls = (project / "uv.log").read_text(encoding="utf-8")
    assert [line.split()[1:3] for line in calls.splitlines()] == [["venv", "--quiet"], *[["pip", "install"]] * 3]
    assert calls.startswith(str(uv))
    assert ".venv/bin/pip install" in make(project, "UV=", "-n", "-W", "pyproject.toml", "setup").stdout


def test_versions_of_python_agree() -> None:
    """The Makefile, the package, doctor and the documentation name the same ones."""
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "pyproject.toml", "README.md")}
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in text["Makefile"]
    assert 'requires-python = ">=3.11,<3.14"' in text["pyproject.toml"]
    assert "Python 3.11, 3.12 or 3.13" in text["README.md"]


def test_set_up_is_done_once_until_the_lock_file_changes(project: Path) -> None:
    assert "pip install" not in make(project, "-n", "UV=", "setup").stdout
    os.utime(project / ".venv/.ready", (0, 0))
    commands = make(project, "-n", "UV=", "setup").stdout
    assert len(re.findall("pip install", commands)) == 3
    assert "--require-hashes -r requirements/teacher.txt" in commands


def test_clean_leaves_the_store_and_what_is_not_made_here(project: Path) -> None:
    for name in ("work", "report", "logs", ".scratch", ".store", "stages"):
        (project / name).mkdir()
    assert make(project, "clean").returncode == 0
    left = {path.name for path in project.iterdir()}
    assert left == {"Makefile", "requirements", "pyproject.toml", ".venv", ".store", "stages"}


def test_continuous_integration_runs_make_test() -> None:
    assert "\nmake test\n" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci/run", os.X_OK)
