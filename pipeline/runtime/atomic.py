"""Write files and directories whole or not at all: under a temporary name first, then by a rename.

A temporary name begins with `.tmp-`, which DVC and `visible_files` ignore.
"""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an unused path beside `path`, which replaces `path` if the block ends without an error.

    The block makes a file or a directory there. What a killed process left of an earlier attempt is removed first, so
    only one process at a time may write `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f".tmp-{glob.escape(path.name)}-*"):
        remove(abandoned)
    with temporary(path.with_name(f".tmp-{path.name}-{os.getpid()}")) as new:
        yield new
        publish(new, path)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory, which replaces `path` if the block ends without an error."""
    with replacing(path) as new:
        new.mkdir()
        yield new


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield a path, and remove what is there at the end; a file or directory that was renamed stays."""
    try:
        yield path
    finally:
        remove(path)


def copy(source: Path, path: Path) -> None:
    """Copy a file or a directory to `path`, which is replaced."""
    with replacing(path) as new:
        if source.is_dir():
            shutil.copytree(source, new, copy_function=shutil.copyfile)  # DVC write-protects what it has
        else:
            shutil.copyfile(source, new)


def publish(new: Path, path: Path) -> None:
    """Move a file or directory to `path`, replacing what is there. Both paths must be on one file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(new, path)


def remove(path: Path) -> None:
    """Remove a file or a directory, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or a directory to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directories(root: Path) -> None:
    """Flush a directory and all directories in it to the device, the innermost first."""
    for directory in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        sync(directory)
    sync(root)
