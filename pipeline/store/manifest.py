"""The manifest of a segment, read and checked."""

import json
from pathlib import Path

from pipeline.runtime.errors import StoreError
from schemas.manifest import Manifest
from schemas.segment import FORMAT


def is_chunk(name: str) -> bool:
    """Of a file, by its path: it holds chunks, which have checksums of their own."""
    return name.rsplit("/", 1)[-1].startswith("c.")


def damaged(path: Path, expected: str, got: object) -> StoreError:
    """The error of a segment whose files are not what was written."""
    return StoreError(path, expected=expected, got=got, remedy="delete the segment and score again")


RANKS_FILE = "ranks.parquet"


def read_manifest(path: Path) -> Manifest:
    """The manifest of a segment; a StoreError where there is none, or one of another format."""
    file = path / "manifest.json"
    try:
        text = file.read_text()
        found = json.loads(text)["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(file, "the manifest of a sealed segment", "nothing") from None
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(file, "a manifest", error) from error
    if found != FORMAT:
        raise StoreError(
            file, expected=FORMAT, got=found, remedy="read it with the version that wrote it, or delete it"
        )
    try:
        return Manifest.from_text(text)
    except ValueError as error:
        raise damaged(file, "a manifest as written", error) from error
