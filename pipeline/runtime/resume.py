"""Make work survive a kill: a scratch directory that is keyed by the inputs, and outputs that appear by a rename.

* A stage works in .scratch/OUTPUT/FINGERPRINT/ and moves its outputs into place when all are complete.
* After a kill, the next run with the same inputs continues there. A run with other inputs removes it.
* A lock on the scratch directory keeps two processes from making one output.

DVC's `persist: true` is no alternative: it reuses stale parts after a parameter change and disables the run cache.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.atomic import publish
from pipeline.runtime.errors import UserError

ROOT = Path(".scratch")
DONE = "done"


@contextmanager
def resumable(outputs: Mapping[str, Path], fingerprint: str) -> Iterator[Path]:
    """Yield a scratch directory, and publish the outputs if the block ends without an error.

    The block makes the directory `done` in the scratch directory by one rename, so `done` is complete or absent. It
    exists from the start if the last attempt was killed before publishing. If the block fails, what it completed stays
    for the next attempt.

    Args:
        outputs: The place of each file or directory of `done`, by its name in `done`.
        fingerprint: A digest of all inputs of the work.

    Raises:
        UserError: Another process makes the same outputs.
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
            shutil.rmtree(scratch)  # the last attempt was killed while publishing, and dvc removed what was in place
        scratch.mkdir(exist_ok=True)
        yield scratch
        for name, output in outputs.items():
            publish(done / name, output)
        shutil.rmtree(scratch)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            got, remedy = "one that makes the same output", "wait for it or stop it"
            raise UserError(home, expected="no other process", got=got, remedy=remedy) from None
        yield
