"""End a stage with its parent, run commands for their output, and find out whether a process lives."""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def use_utf_8() -> None:
    """Start this program again in Python's UTF-8 mode, where the locale has another encoding for names and output."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, so that killing dvc leaves no orphan stage (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died between the two calls, or while this process imported modules.
    if os.getppid() != parent or _is_orphan():
        os.kill(os.getpid(), signal.SIGTERM)


def _is_orphan() -> bool:
    """Return whether the original parent is dead, in which case another process has inherited this one.

    A process that leads no session is in the session of its parent, so a parent in another session is not the original.
    """
    return os.getsid(0) not in {os.getpid(), os.getsid(os.getppid())}


def alive(pid: int) -> bool:
    """Return whether this machine has a process with this number."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # of another user; ProcessLookupError means that there is none
    return True


def command_output(*command: str, cwd: Path | None = None) -> str | None:
    """Return what a command prints, without white space around it; None where the command is missing or fails."""
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=True, encoding="utf-8", errors="replace")
        return done.stdout.strip()
    return None
