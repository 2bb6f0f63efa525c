"""Write a temporary directory, sync it, and rename it into place."""

import errno
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.runtime.atomic import sync, temporary
from pipeline.runtime.errors import StoreError
from pipeline.store.manifest import read_manifest
from schemas.manifest import Manifest


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory for one write, named after its owner for `Store.sweep`; gone at the end unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    with temporary(parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}") as path:
        path.mkdir()
        yield path


def publish_segment(new: Path, path: Path, manifest: Manifest) -> None:
    """Make a segment visible under its name; another writer of the same content may have been first."""
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        found = read_manifest(path).segment_id
        if found != manifest.segment_id:
            raise StoreError(
                path, expected=f"nothing or segment {manifest.segment_id}", got=f"segment {found}", remedy="remove it"
            ) from None
    sync(path.parent)
