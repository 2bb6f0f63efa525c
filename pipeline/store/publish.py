"""Write a temporary directory, sync it, and rename it into place."""

import errno
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.errors import StoreError
from pipeline.store.manifest import read_manifest
from schemas.manifest import Manifest


def sync(path: Path) -> None:
    """Flush a file or a directory to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directories(root: Path) -> None:
    for directory in sorted((one for one in root.rglob("*") if one.is_dir()), reverse=True):
        sync(directory)
    sync(root)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory for one write, named after its owner for `Store.sweep`; gone at the end unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def publish_segment(temporary: Path, path: Path, manifest: Manifest) -> None:
    """Make a segment visible under its name; another writer of the same content may have been first."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        found = read_manifest(path).segment_id
        if found != manifest.segment_id:
            raise StoreError(
                path, expected=f"nothing or segment {manifest.segment_id}", got=f"segment {found}", remedy="remove it"
            ) from None
    sync(path.parent)
