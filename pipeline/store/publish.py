"""Publish a segment: write it into a temporary directory, then rename the directory."""

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
    """Yield a new directory for one write; it is removed at the end unless it was renamed.

    Its name contains process and host, by which `Store.sweep` recognises the directories of dead writers.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with temporary(parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}") as path:
        path.mkdir()
        yield path


def publish_segment(new: Path, path: Path, manifest: Manifest) -> None:
    """Rename a segment's directory to `path`; another writer may have published the same content there.

    Raises:
        StoreError: There is another segment at `path`.
    """
    try:
        os.replace(new, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        present = read_manifest(path).segment_id
        if present != manifest.segment_id:
            expected = f"nothing or segment {manifest.segment_id}"
            raise StoreError(path, expected=expected, got=f"segment {present}", remedy="remove it") from None
    sync(path.parent)
