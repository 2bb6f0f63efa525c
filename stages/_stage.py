"""What every stage's command line does: die with its parent, and tell mistakes in one line with exit code 1."""

import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json
from pipeline.runtime.layout import COSTS
from pipeline.runtime.process import die_with_parent
from pipeline.runtime.progress import summary

_NEARLY_NONE_BYTES = 1 << 24


def run(command: click.Command) -> None:
    """Run a click command as a process of its own."""
    die_with_parent()
    try:
        command(standalone_mode=True)
    except UserError as error:
        _fail(str(error))
    except Exception as error:
        if not _disk_is_full(error):
            raise
        _fail(f"{Path.cwd()}: expected free space, got a full disk ({error}); free some and run `make repro` again")


def _disk_is_full(error: Exception) -> bool:
    """True also for the libraries that hide the error number: safetensors tells it in words, torch not at all."""
    told = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(error)
    writes = isinstance(error, RuntimeError) and "write" in str(error)
    return told or (writes and shutil.disk_usage(Path.cwd()).free < _NEARLY_NONE_BYTES)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(1)


@contextmanager
def cost(name: str) -> Iterator[dict[str, Any]]:
    """Collect what a stage spent; told and written to work/costs/<name>.json when the block ends well.

    Kept apart from the stage's results, which must not differ between two runs of the same work. So is the version
    of the code, which `stillroom lineage` tells.
    """
    started = time.monotonic()
    entry: dict[str, Any] = {"tokens": 0} | _code_version()
    yield entry
    entry["seconds"] = round(time.monotonic() - started, 3)
    write_json(COSTS / f"{name}.json", entry)
    print(summary(name, entry), flush=True)


def _code_version() -> dict[str, Any]:
    """The commit, and whether tracked files differ from it (dvc.lock aside, which the run itself writes)."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    return {"commit": commit, "dirty": bool(changed)}


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return done.stdout.strip()
