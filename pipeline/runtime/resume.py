"""Work that survives being killed: a scratch directory keyed by the inputs, published by rename.

A stage works in .scratch/<output>/<fingerprint>/ and moves its outputs into place when all are complete. Killed at any
point, the next run with the same inputs finds its scratch and goes on; with other inputs the old scratch is swept. A
lock on the scratch keeps two processes from making one output. DVC's `persist: true` is the alternative not taken: it
reuses stale parts after a parameter change and disables the run cache.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.errors import UserError

ROOT = Path(".scratch")
DONE = "done"


@contextmanager
def resumable(outputs: Mapping[str, Path], fingerprint: str) -> Iterator[Path]:
    """Yield the scratch directory of these outputs; when the block ends well, publish scratch/done/<name> to each.

    The block makes scratch/done in one rename, so it is complete or absent; it may be there at once, when the last
    attempt was killed before publishing. When the block fails, what it completed stays for the next attempt.
    """
    paths = hashlib.sha256("\n".join(sorted(map(str, outputs.values()))).encode()).hexdigest()
    home = ROOT / f"{'-'.join(next(iter(outputs.values())).parts[-3:])}-{paths[:8]}"
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        for stale in home.iterdir():
            if stale.is_dir() and stale.name != fingerprint:
                shutil.rmtree(stale)
        scratch = home / fingerprint
        done = scratch / DONE
        if done.is_dir() and not all((done / name).exists() for name in outputs):
            shutil.rmtree(scratch)  # killed while publishing: dvc has removed what was in place already
        scratch.mkdir(exist_ok=True)
        yield scratch
        for name, output in outputs.items():
            publish(done / name, output)
        shutil.rmtree(scratch)


def publish(made: Path, output: Path) -> None:
    """Move a file or directory to its place, replacing what is there. Both must be on one file system."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir() and not output.is_symlink():
        shutil.rmtree(output)
    os.replace(made, output)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place when the block ends well, and is removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    for killed in path.parent.glob(f".tmp-{path.name}-*"):
        shutil.rmtree(killed, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        publish(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                home, expected="no other process", got="one that makes the same output", remedy="wait for it or stop it"
            ) from None
        yield
