"""Read, write and extend stillroom.json, the file in a model directory about where the model comes from.

* What `write_lineage` writes is what `read_lineage` reads.
* The teacher whose scores trained a student first is known across runs, so that another teacher is noticed.
"""

from dataclasses import asdict, replace
from pathlib import Path

import click

from pipeline.lineage.records import FORMAT, Lineage, ModelSource, Tuning
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.text import short

FILE = "stillroom.json"


def read_lineage(model: Path) -> Lineage | None:
    """Return the lineage of a model directory, None where the directory has none.

    Raises:
        DataError: The file has another format or another shape.
    """
    path = model / FILE
    if not path.is_file():
        return None
    value = read_json(path)
    format_ = value.get("format") if isinstance(value, dict) else value
    if format_ != FORMAT:
        raise DataError(path, expected=FORMAT, got=format_, remedy="read it with the version that wrote it")
    try:
        return parse(Lineage, value, where="lineage")
    except ParameterError as error:
        raise DataError(path, expected="a lineage", got=error.finding, remedy="take the original file") from error


def lineage_before(model: Path, teacher: str) -> Lineage:
    """Return the lineage of the checkpoint at the beginning of a round.

    Print a warning if the student trained with scores of another teacher before; `teacher` is the fingerprint of the
    teacher that scores now.

    Raises:
        DataError: The checkpoint has no lineage.
    """
    lineage = read_lineage(model)
    if lineage is None:
        raise DataError(model / FILE, expected="a file", got="nothing", remedy="run `dvc repro --force` on its stage")
    if warning := teacher_warning(lineage, teacher):
        click.echo(f"warning: {warning}", err=True)
    return lineage


def write_lineage(model: Path, lineage: Lineage) -> None:
    """Write the lineage of a model directory; equal lineages give equal bytes."""
    write_json(model / FILE, asdict(lineage))


def teacher_lineage(source: ModelSource) -> Lineage:
    """Return the lineage of the teacher's own directory."""
    return Lineage(
        format=FORMAT, student=None, teacher=source, start=None, layers=None, config=None, rounds=(), earlier=None
    )


def add_sft(lineage: Lineage, tuning: Tuning) -> Lineage:
    """Return the lineage of the same model after supervised fine-tuning; a teacher gets its new fingerprint."""
    tuned = replace(lineage, tunings=(*lineage.tunings, tuning))
    if lineage.student is not None:
        return tuned
    return replace(tuned, teacher=replace(lineage.teacher, fingerprint=tuning.after))


def kept_layers(lineage: Lineage) -> str:
    """Return the layers of a pruned student, such as "0, 2" or "encoder 0, 2, decoder 1"; "" without pruning."""
    layers = lineage.layers or {}
    stacks = layers if isinstance(layers, dict) else {"": layers}
    return ", ".join(f"{stack} {', '.join(map(str, numbers))}".strip() for stack, numbers in stacks.items())


def history(lineage: Lineage) -> list[Lineage]:
    """Return the runs that a student went through, the first one first."""
    return [*(history(lineage.earlier) if lineage.earlier else []), lineage]


def first_teacher(lineage: Lineage) -> tuple[str, str] | None:
    """Return name and fingerprint of the teacher of the very first round; None before any round.

    The name is "another" if the scores of that round came from another teacher than the run's.
    """
    for run in history(lineage):
        for trained in run.rounds:
            return _teacher_name(run, trained.teacher), trained.teacher
    return None


def teacher_warning(lineage: Lineage, fingerprint: str) -> str | None:
    """Return a one-line warning if the student's first round used another teacher than the given one, else None."""
    first = first_teacher(lineage)
    if first is None or first[1] == fingerprint:
        return None
    return (
        f"student {lineage.student}: first tuned on data of teacher {first[0]} ({short(first[1])}), "
        f"now {_teacher_name(lineage, fingerprint)} ({short(fingerprint)}) scores; its figures mix two teachers"
    )


def _teacher_name(run: Lineage, fingerprint: str) -> str:
    return run.teacher.model if run.teacher.fingerprint == fingerprint else "another"


def last_warning(lineage: Lineage) -> str | None:
    """Return the warning about the teacher of the last round; None before any round."""
    return teacher_warning(lineage, lineage.rounds[-1].teacher) if lineage.rounds else None
