"""Read and check the manifest of a segment."""

import json
from pathlib import Path

from pipeline.runtime.config import parse
from pipeline.runtime.errors import ParameterError, StoreError
from schemas.manifest import Manifest
from schemas.segment import FORMAT


def is_chunk(name: str) -> bool:
    """Return whether the file of this path holds chunks, which have checksums of their own."""
    return name.rsplit("/", 1)[-1].startswith("c.")


def damaged(path: Path, expected: str, got: object) -> StoreError:
    """Return the error for a segment whose files differ from what was written."""
    return StoreError(path, expected=expected, got=got, remedy="delete the segment and score again")


RANKS_FILE = "ranks.parquet"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the segment at `path`.

    Raises:
        StoreError: There is no manifest, or it is damaged or of another format.
    """
    file = path / "manifest.json"
    try:
        text = file.read_text(encoding="utf-8")
        written_format = json.loads(text)["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(file, "the manifest of a sealed segment", "nothing") from None
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(file, "a manifest", error) from error
    if written_format != FORMAT:
        remedy = "read it with the version that wrote it, or delete it"
        raise StoreError(file, expected=FORMAT, got=written_format, remedy=remedy)
    try:
        return decode_manifest(text)
    except ParameterError as error:
        raise damaged(file, "a manifest as written", error.finding) from error
    except ValueError as error:
        raise damaged(file, "a manifest as written", error) from error


def decode_manifest(text: str) -> Manifest:
    """Return the manifest that `Manifest.to_text` wrote.

    Raises:
        ValueError: A field is unknown, missing, of another type or altered, or the text is laid out differently.
    """
    fields = dict(json.loads(text))
    segment_id = fields.pop("segment_id", None)
    manifest = parse(Manifest, fields, where="manifest")
    if manifest.segment_id != segment_id:
        raise ValueError(f"segment_id: expected {manifest.segment_id}, got {segment_id!r}")
    if manifest.to_text() != text:
        raise ValueError("expected the writer's spelling, got another one of the same values")
    return manifest
