"""Run stages in forks of one process that has imported their packages, which takes longer than a small stage's work.

`stillroom repro` is that process: it starts `dvc repro` and answers at the socket STILLROOM_FORKS. DVC starts
`python -m stages.NAME` as always. That process asks for a fork, waits for it, and ends as it ends.

* It saves about 6 s of processor time for each stage (`python -m bench.end_to_end.overhead` compares whole jobs).
* A fork runs the code that DVC records: after a change of a source file, stages run in processes of their own. They do
  so too without `stillroom repro`, in another checkout or environment, and where a package cannot be imported.
* A fork ends with the process that DVC started, and with `stillroom repro`.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline.runtime.process import die_with_parent

ADDRESS = "STILLROOM_FORKS"
STAGES = tuple(sorted(f"stages.{file.stem}" for file in Path(__file__).parent.glob("[a-z]*.py")))

_ROOT = Path(__file__).resolve().parents[1]
# Libraries delay these until their first use.
_DELAYED = ("transformers.modeling_utils", "transformers.optimization", "pandas")
_HERE = "here"  # The answer that the process shall run the stage itself
_POLL_S = 0.1


def run_in_fork(module: str) -> None:
    """Run a stage in a fork and end as it ends; return if this process shall run the stage itself.

    Args:
        module: The stage's module, which this process was started with.
    """
    address = os.environ.get(ADDRESS)
    if not address or module not in STAGES:
        return
    request = {"module": module, "options": sys.orig_argv[3:], "environment": dict(os.environ)} | _where()
    die_with_parent()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return  # `stillroom repro` was killed
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork gets it too, and says how it ends
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            answer = stream.readline().strip()
    if answer == _HERE:
        signal.signal(signal.SIGINT, interrupt)
        return
    if not answer:  # the fork was killed, for example where memory ran out: DVC shall see the same
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(answer))


def _where() -> dict[str, str]:
    return {"code": str(_ROOT), "packages": sys.prefix, "directory": str(Path.cwd())}


def run_with_forks(command: Sequence[str]) -> int:
    """Run a command, such as `dvc repro`, and fork for each stage that it starts; return its exit code."""
    if sys.platform != "linux":  # elsewhere system libraries do not survive a fork
        return subprocess.run(command, check=False).returncode
    signal.signal(signal.SIGINT, _go_on)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(folder, "forks"))
        listener.bind(address)
        listener.listen()
        listener.settimeout(_POLL_S)
        env = os.environ | {ADDRESS: address}
        # This process has no threads that the new process could wait for.
        with subprocess.Popen(command, env=env, preexec_fn=die_with_parent) as process:  # noqa: PLW1509
            _end(_answer(listener, process))
        return process.returncode


def _go_on(_number: int, _frame: FrameType | None) -> None:
    """Leave an interrupt to the command and the stage, which get it as well; this process ends after them."""


def _answer(listener: socket.socket, process: "subprocess.Popen[bytes]") -> set[int]:
    """Fork until the process ends; return the forks that may still run."""
    forks: set[int] = set()
    imported: dict[Path, tuple[int, int]] | None = None
    while process.poll() is None:
        forks = {pid for pid in forks if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection, connection.makefile("rw", encoding="utf-8") as stream:
            request = json.loads(stream.readline() or "{}")
            if imported is None:
                imported = _import_stages()
            here = {key: request.get(key) for key in _where()} != _where() or imported != _sources(imported)
            if here or not imported:
                stream.write(_HERE)
                stream.flush()
            elif pid := os.fork():
                forks.add(pid)
            else:
                listener.close()
                _run(request, connection)
    return forks


def _end(forks: set[int]) -> None:
    """Wait for forks that DVC left behind, because it or its process for the stage was killed."""
    for pid in forks:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _import_stages() -> dict[Path, tuple[int, int]]:
    """Import what stages need; return the state of the checkout's files among it, nothing where an import fails."""
    try:
        for module in (*STAGES, *_DELAYED):
            importlib.import_module(module)
    except (Exception, SystemExit):
        return {}  # a process of its own says what is wrong
    files = [Path(name) for module in list(sys.modules.values()) if (name := getattr(module, "__file__", None))]
    return _sources(path for path in files if path.is_relative_to(_ROOT) and not path.is_relative_to(sys.prefix))


def _sources(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Return the time and the size of files that exist."""
    states = {path: path.stat() for path in paths if path.is_file()}
    return {path: (state.st_mtime_ns, state.st_size) for path, state in states.items()}


def _run(request: Mapping[str, Any], connection: socket.socket) -> NoReturn:
    """Run a stage in this fork as `python -m` does, and send its exit code."""
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    code = _exit_code(request["module"], request["options"])
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(f"{code}\n".encode())
    os._exit(code)


def _exit_code(name: str, options: Sequence[str]) -> int:
    try:
        from stages._stage import run

        module = sys.modules[name]
        sys.argv = [str(module.__file__), *options]
        sys.path[0] = str(Path.cwd())
        run(module.main)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end_with(connection: socket.socket) -> None:
    """End this fork when the process that DVC started is gone."""
    if not connection.recv(1):
        os.kill(os.getpid(), signal.SIGTERM)
