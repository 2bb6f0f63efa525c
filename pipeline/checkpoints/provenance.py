"""What a model from outside tells about itself beside its weights: its licence, and its lineage where it is a student.

Guarantee: nothing here fails a run; what cannot be found out is None. Cost: two small files of the hub, where the
weights have just come from.
"""

import re
import struct
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from pipeline.checkpoints.pretrained import locate
from pipeline.checkpoints.random_init import FRESH
from pipeline.core.hashing import model_fingerprint
from pipeline.lineage.lineage import FILE, read_lineage
from pipeline.lineage.records import Lineage, ModelSource

_README_LICENSE = re.compile(r"""---\n(?:(?!---).*\n)*?license:[ ]*["']?([\w.+-]+)["']?[ ]*\n""")  # in its front matter
_GGUF_KEY = b"general.license"
_GGUF_HEADER_BYTES = 1 << 16  # the general fields come first; reading them all takes seconds for the vocabulary
_GGUF_STRING = 8  # the format's number for a string


def source_of(model: str, revision: str | None, directory: Path, *, where: str) -> ModelSource:
    """What params.yaml names, and the directory that was made of it."""
    if model.startswith(FRESH):
        print_ = model_fingerprint(directory)
        return ModelSource(model=model, revision=None, hub=False, license=None, fingerprint=print_)
    place, options = locate(model, where)
    return ModelSource(
        model=model,
        revision=revision,
        hub=not options and not Path(place).is_dir(),
        license=_license(place, options, revision),
        fingerprint=model_fingerprint(directory),
    )


def earlier_lineage(model: str, revision: str | None, *, where: str) -> Lineage | None:
    """The lineage of a model that another run of this pipeline made."""
    place, options = locate(model, where)
    file = None if options else _fetch(place, FILE, revision)
    return read_lineage(file.parent) if file else None


def _license(place: str, options: dict[str, Any], revision: str | None) -> str | None:
    if "gguf_file" in options:
        return _gguf_license(Path(place) / options["gguf_file"])
    file = _fetch(place, "README.md", revision)
    found = _README_LICENSE.match(file.read_text(errors="replace")) if file else None
    return found[1] if found else None


def _fetch(place: str, name: str, revision: str | None) -> Path | None:
    """One file of a local directory or of a hub model."""
    if Path(place).is_dir():
        return Path(place) / name if (Path(place) / name).is_file() else None
    quiet = ("missing_entries", "connection_errors", "gated_repo")
    options: dict[str, Any] = {f"_raise_exceptions_for_{one}": False for one in quiet}
    try:
        found = cached_file(place, name, revision=revision, **options)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def _gguf_license(path: Path) -> str | None:
    """The string under general.license, by the format's layout: key, u32 type, u64 length, bytes."""
    with path.open("rb") as file:
        header = file.read(_GGUF_HEADER_BYTES)
    _, found, rest = header.partition(_GGUF_KEY)
    if not found or len(rest) < 12:
        return None
    kind, length = struct.unpack_from("<IQ", rest)
    return rest[12 : 12 + length].decode(errors="replace") if kind == _GGUF_STRING else None
