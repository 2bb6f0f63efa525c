"""Find out what a model from outside declares beside its weights: its licence, and its lineage if it is a student.

* Guarantee: nothing in this module fails a run; a fact that cannot be found is None.
* Cost: two small files from the hub, from where the weights have just come.
"""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from pipeline.checkpoints.adapters import find_adapter
from pipeline.checkpoints.pretrained import locate
from pipeline.checkpoints.random_init import FRESH
from pipeline.checkpoints.sources import card_field, fetch
from pipeline.checkpoints.student import StudentParams
from pipeline.core.hashing import model_fingerprint
from pipeline.lineage.lineage import FILE, read_lineage
from pipeline.lineage.records import Lineage, ModelSource
from pipeline.models.architectures import auto_class
from pipeline.runtime.errors import DataError

# The format stores a string as its key, a u32 type (8), a u64 length, and its bytes.
_GGUF_LICENSE = re.compile(rb"general\.license\x08\0\0\0(.{8})", re.DOTALL)
_GGUF_HEADER_BYTES = 1 << 16  # the general fields come first; reading all fields takes seconds for the vocabulary


def source_of(
    model: str, revision: str | None, directory: Path, *, where: str, base: Path | None = None
) -> ModelSource:
    """Return the lineage record of a model.

    Args:
        model: The name in params.yaml, or the name of a randomly initialised model.
        revision: Branch, tag or commit of a hub model.
        directory: The model directory that was made of it, for the fingerprint.
        where: The parameter that names the model, for messages.
        base: The directory of the weights, if `directory` holds an adapter.

    Raises:
        ModelError: When `model` names a package or a file that does not exist.
    """
    fingerprint = model_fingerprint(directory)
    hub, license_id = False, None
    if not model.startswith(FRESH):
        source, options = locate(model, where)
        hub, license_id = not options and not Path(source).is_dir(), _license(source, options, revision)
    return ModelSource(
        model=model,
        revision=None if model.startswith(FRESH) else revision,
        hub=hub,
        license=license_id,
        fingerprint=fingerprint,
        auto_class=auto_class(AutoConfig.from_pretrained(base or directory)).__name__,
    )


def student_lineage(
    student: str, p: StudentParams, teacher: Path, checkpoint: Path, *, where: str, base: Path
) -> Lineage:
    """Return the lineage of a student before its first round: the teacher's, and the model that the student starts as.

    Args:
        student: The name of the student.
        p: The student's section of params.yaml.
        teacher: The model directory of the teacher.
        checkpoint: The student's first checkpoint.
        where: The parameter that names the student's model, for messages.
        base: The directory of the weights below an adapter.

    Raises:
        DataError: When the teacher has no lineage.
        ModelError: When `p.model` names a package or a file that does not exist.
    """
    lineage = read_lineage(teacher)
    if lineage is None:
        raise DataError(teacher / FILE, expected="a file", got="nothing", remedy="run `dvc repro --force teacher`")
    from_teacher = p.model == "teacher"
    name, revision = (lineage.teacher.model, lineage.teacher.revision) if from_teacher else (p.model, p.revision)
    return replace(
        lineage,
        student=student,
        start=source_of(name, revision, checkpoint, where=where, base=base if p.lora else None),
        layers=p.layers,
        config=p.config,
        lora=asdict(p.lora) if p.lora else None,
        earlier=None if p.config is not None or from_teacher else earlier_lineage(name, revision, where=where),
    )


def earlier_lineage(model: str, revision: str | None, *, where: str) -> Lineage | None:
    """Return the lineage of a model that another run of this pipeline made, or None for any other model.

    Raises:
        ModelError: When `model` names a package or a file that does not exist.
    """
    source, options = locate(model, where)
    file = None if options else fetch(source, FILE, revision)
    return read_lineage(file.parent) if file else None


def _license(source: str, options: dict[str, Any], revision: str | None) -> str | None:
    if "gguf_file" in options:
        return _gguf_license(Path(source) / options["gguf_file"])
    own = card_field(source, "license", revision)
    if own is None and (adapter := find_adapter(source, revision, where=source)):
        return card_field(adapter.base, "license", adapter.revision)
    return own


def _gguf_license(path: Path) -> str | None:
    """Return the string at general.license."""
    with path.open("rb") as file:
        header = file.read(_GGUF_HEADER_BYTES)
    if match := _GGUF_LICENSE.search(header):
        text = header[match.end() :][: int.from_bytes(match[1], "little")]
        return text.decode(errors="replace")
    return None
