"""Run DVC as `python -m stages._dvc`: `dvc` itself, but a full disk is one line with its remedy.

DVC would print the errors of its libraries, such as `disk I/O error`, twice and without a cause. It writes dvc.lock in
place, so that a kill or a full disk can leave it empty or cut off; such a file is removed, and what it recorded comes
out of the run cache.
"""

import logging
import shutil
import sqlite3
import sys
from pathlib import Path

from dvc.cli import main
from dvc.dirs import site_cache_dir
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
from voluptuous import Invalid

from stages._stage import NEARLY_NONE_BYTES, disk_is_full, fail, full_disk

_LOCK = Path("dvc.lock")


class OneLine(logging.Filter):
    """A filter of DVC's log that ends the process with one line where an error says that a disk is full."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            if isinstance(error, Exception) and (disk_is_full(error) or _database_is_full(error)):
                fail(full_disk(error))
            error = error.__cause__ or error.__context__
        return True


def _database_is_full(error: Exception) -> bool:
    """Recognise a full disk below one of DVC's databases, in the project or in a directory of the machine."""
    if not isinstance(error, sqlite3.OperationalError):
        return False
    places = [path for path in (Path.cwd(), Path(site_cache_dir())) if path.exists()]
    return any(shutil.disk_usage(path).free < NEARLY_NONE_BYTES for path in places)


def remove_damaged_lock() -> None:
    """Remove a dvc.lock that a kill or a full disk left empty or cut off."""
    if not _LOCK.is_file():
        return
    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(_LOCK.read_text(encoding="utf-8"), _LOCK) or None)
    except (YAMLFileCorruptedError, Invalid):
        _LOCK.unlink()
        print("removed the damaged dvc.lock that a kill or a full disk left", flush=True)


if __name__ == "__main__":
    remove_damaged_lock()
    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(OneLine())
    sys.exit(main(sys.argv[1:]))
