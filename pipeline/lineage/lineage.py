"""Where a student comes from: stillroom.json beside its weights, read and grown by a round at a time.

Guarantee: what is written is what `read_lineage` reads; a file of another shape is a DataError. The teacher whose
scores tuned a student first is known across runs, so that another one is noticed.
Not taken: the facts in safetensors' metadata or config.json, which would change the model's fingerprint.
"""

from dataclasses import asdict, replace
from pathlib import Path

from pipeline.lineage.records import FORMAT, Lineage, ModelSource, Round, Tuning
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.files import read_json, write_json

FILE = "stillroom.json"
_SHOWN = 12  # digits of a fingerprint that people see


def read_lineage(model: Path) -> Lineage | None:
    """The lineage of a model directory; None where none was written."""
    path = model / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    found = value.get("format") if isinstance(value, dict) else value
    if found != FORMAT:
        raise DataError(path, expected=FORMAT, got=found, remedy="read it with the version that wrote it")
    try:
        return parse(Lineage, value, where="lineage")
    except ParameterError as error:
        raise DataError(path, expected="a lineage", got=error.finding, remedy="take the original file") from error


def write_lineage(model: Path, lineage: Lineage) -> None:
    """Equal lineages give equal bytes."""
    write_json(model / FILE, asdict(lineage))


def teacher_lineage(source: ModelSource) -> Lineage:
    """The lineage of the teacher's own directory."""
    return Lineage(
        format=FORMAT,
        student=None,
        teacher=source,
        start=None,
        layers=None,
        config=None,
        rounds=(),
        earlier=None,
    )


def add_round(lineage: Lineage, one: Round) -> Lineage:
    """The same student a round later."""
    return replace(lineage, rounds=(*lineage.rounds, one))


def add_sft(lineage: Lineage, one: Tuning) -> Lineage:
    """The same model, tuned on references; a tuned teacher is known by its new fingerprint."""
    after = replace(lineage, tunings=(*lineage.tunings, one))
    if lineage.student is not None:
        return after
    return replace(after, teacher=replace(lineage.teacher, fingerprint=one.after))


def kept_layers(lineage: Lineage) -> str:
    """The layers that a cut student kept, such as "0, 2" or "encoder 0, 2, decoder 1"; "" for a whole one."""
    kept = lineage.layers or {}
    sides = kept if isinstance(kept, dict) else {"": kept}
    return ", ".join(f"{side} {', '.join(map(str, one))}".strip() for side, one in sides.items())


def history(lineage: Lineage) -> list[Lineage]:
    """The runs that a student went through, the first one first."""
    return [*(history(lineage.earlier) if lineage.earlier else []), lineage]


def first_teacher(lineage: Lineage) -> tuple[str, str] | None:
    """Name and fingerprint of the teacher of the first round; None where the student was never tuned here."""
    for run in history(lineage):
        for one in run.rounds:
            return (run.teacher.model if run.teacher.fingerprint == one.teacher else "another"), one.teacher
    return None


def teacher_warning(lineage: Lineage, scores: str) -> str | None:
    """One line where another teacher than the first scores now; `scores` is its fingerprint."""
    first = first_teacher(lineage)
    if first is None or first[1] == scores:
        return None
    name, print_ = first
    now = lineage.teacher.model if lineage.teacher.fingerprint == scores else "another"
    return (
        f"student {lineage.student}: first tuned on data of teacher {name} ({print_[:_SHOWN]}), "
        f"now {now} ({scores[:_SHOWN]}) scores; its figures mix two teachers"
    )


def last_warning(lineage: Lineage) -> str | None:
    """The warning about the teacher that scored last, as far as one did."""
    return teacher_warning(lineage, lineage.rounds[-1].teacher) if lineage.rounds else None
