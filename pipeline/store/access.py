"""Check that the store can be written, before a teacher works for hours on scores that nobody can keep."""

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.runtime.errors import StoreError
from pipeline.runtime.text import size_text

_LEAST_BYTES = 1 << 24  # of free space


def check_writable(store: Path) -> None:
    """Write a file without a name into every directory of the store, or into the directory where it will be made.

    Raises:
        StoreError: A place is no directory, cannot be written, or is full.
    """
    places = [path for path in (store, *store.absolute().parents) if os.path.lexists(path)]
    inner = [path for path in (store / "segments", store / "ranks") if os.path.lexists(path)]
    for directory in (places[0], *inner):
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(bytes(4096))
            free = shutil.disk_usage(directory).free
        except OSError as error:
            raise _refusal(directory, error.strerror or str(error)) from error
        if free < _LEAST_BYTES:
            raise _refusal(directory, f"{size_text(free)} of free space")


def _refusal(directory: Path, got: str) -> StoreError:
    remedy = "mend it, or set STILLROOM_STORE to another directory"
    return StoreError(directory, expected="a place for the store that can be written", got=got, remedy=remedy)
