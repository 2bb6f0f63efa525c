"""stages._dvc: DVC on a full disk says so in one line, and goes on where it stopped once there is space."""

import errno
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import _dvc
from stages._dvc import OneLine, remove_damaged_lock

ROOT = Path(__file__).parents[2]
PIPELINE = """stages:
  small:
    cmd: echo 1 > small
    outs: [small]
  large:
    cmd: mkdir large && cp small large/part && if [ -e fill ]; then cat /dev/zero > filler 2> /dev/null; fi; true
    deps: [small]
    outs: [large]
"""
CONFIG = """[core]
    no_scm = true
    analytics = false
[cache]
    type = "hardlink,copy"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A log whose handler has the filter."""
    logger, handler = logging.Logger("dvc-like"), logging.StreamHandler(sys.stderr)
    handler.addFilter(OneLine())
    logger.addHandler(handler)
    yield logger


def caught(error: Exception, cause: Exception | None = None) -> Exception:
    """Return an error as a log gets it, with its cause."""
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        caught(OSError(errno.ENOSPC, "No space left on device")),
        caught(ValueError("failed"), OSError(errno.EDQUOT, "Disk quota exceeded")),
        caught(ValueError("failed"), sqlite3.OperationalError("disk I/O error")),
    ],
    ids=["system", "cause", "database"],
)
def test_an_error_of_a_full_disk_is_one_line_with_the_remedy(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log: logging.Logger,
    error: Exception,
) -> None:
    monkeypatch.setattr(_dvc.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(SystemExit) as end:
        log.error("failed to reproduce 'large'", exc_info=error)
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {project}: expected free space, got a full disk (")
    assert err.endswith("; free some and run `make repro` again\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("failed"), sqlite3.OperationalError("database is locked"), None])
def test_other_errors_are_logged_as_they_are(
    monkeypatch: pytest.MonkeyPatch, log: logging.Logger, error: Exception | None
) -> None:
    monkeypatch.setattr(_dvc.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    printed: list[logging.LogRecord] = []
    log.handlers[0].emit = printed.append  # type: ignore[method-assign]
    log.error("failed", exc_info=error)
    assert [record.getMessage() for record in printed] == ["failed"]


@pytest.mark.parametrize("content", ["", "schema: '2.0'\nstages:\n  small:\n    cmd: echo\n    ou", "stages:\n- 1\n"])
def test_a_damaged_lock_is_removed(project: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (project / "dvc.lock").write_text(content, encoding="utf-8")
    remove_damaged_lock()
    assert not (project / "dvc.lock").exists()
    assert capsys.readouterr().out == "removed the damaged dvc.lock that a kill or a full disk left\n"
    remove_damaged_lock()
    assert capsys.readouterr().out == ""


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def _may_mount() -> bool:
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not _may_mount(), reason="needs a file system of its own")
def test_dvc_on_a_full_disk_goes_on_without_force_once_there_is_space(project: Path) -> None:
    """A second stage fills a file system of 1 MB before DVC commits its output."""
    run = f"{sys.executable} -m stages._dvc repro"
    script = f"""
        mount -t tmpfs -o size=1m none disk && cp -r .dvc dvc.yaml disk && cd disk && touch fill || exit 9
        {run} 2>&1; echo "code $?"; rm fill filler; {run}; echo "code $?"; {run}; echo "code $?"
    """
    (project / "disk").mkdir()
    env = os.environ | {"PYTHONPATH": str(ROOT), "DVC_SITE_CACHE_DIR": str(project / "disk/site")}
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", script],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    first, second, third, _ = done.stdout.split("code ")
    *_, line = first.splitlines()
    assert line.startswith(f"error: {project}/disk: expected free space, got a full disk ("), done.stdout + done.stderr
    assert (first.count("error:"), first.count("ERROR")) == (1, 0)
    assert second.startswith("1\n")
    assert "Running stage 'large'" in second
    assert "Running stage 'small'" not in second
    assert third.startswith("0\n")
    assert "Running" not in third
