"""Processes: whether they live, and that a stage ends with its parent."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, so that killing dvc leaves no orphan stage (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent or _is_orphan():  # it died between the two calls, or while this process imported
        os.kill(os.getpid(), signal.SIGTERM)


def _is_orphan() -> bool:
    """True when the parent is whoever inherits orphans: who leads no session was born into its parent's."""
    return os.getsid(0) not in {os.getpid(), os.getsid(os.getppid())}


def alive(pid: int) -> bool:
    """True when this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
