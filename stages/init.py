"""Make a student's first checkpoint, work/STUDENT/TO/model, with the teacher's tokenizer.

A student with `lora` is an adapter there, and work/STUDENT/base holds what it adapts; for any other a line of text.
"""

from dataclasses import asdict, replace
from pathlib import Path

import click
import torch

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.checkpoints.provenance import earlier_lineage, source_of
from pipeline.checkpoints.student import NewStudent, StudentParams, start_student
from pipeline.core.hashing import derive_seed
from pipeline.lineage.lineage import FILE, read_lineage, write_lineage
from pipeline.lineage.records import Lineage
from pipeline.models.tokenizer import load_tokenizer, require_same_tokenizer
from pipeline.runtime.config import lookup, section
from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import PARAMS, TEACHER
from pipeline.runtime.resume import whole_directory
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--student", required=True)
@click.option("--to", required=True, help="init, or where it waits to be tuned.")
def main(student: str, to: str) -> None:
    where, home, seed = f"student.{student}", Path(f"work/{student}"), lookup(PARAMS, "seed")
    p = section(PARAMS, StudentParams, "student", student)
    source, seed = str(TEACHER) if p.model == "teacher" else p.model, derive_seed(seed, "init", student)
    with (
        cost(f"{student}-init"),
        whole_directory(home / "base") as base,
        whole_directory(home / to / "model") as folder,
    ):
        loaded, tokenizer = load_pretrained(source, p.revision, dtype=torch.float32, where=f"{where}.model")
        require_same_tokenizer(load_tokenizer(TEACHER), tokenizer, (str(TEACHER), p.model))
        model = start_student(p, loaded, seed=seed, where=where)
        NewStudent(model=model, tokenizer=tokenizer, params=p, seed=seed, where=where).save(base, folder)
        write_lineage(folder, _lineage(student, p, folder, where=f"{where}.model"))
    every, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    click.echo(f"student {student}: {every:,} parameters, {trained:,} to train")


def _lineage(student: str, p: StudentParams, folder: Path, *, where: str) -> Lineage:
    teacher = read_lineage(TEACHER)
    if teacher is None:
        raise DataError(TEACHER / FILE, expected="a file", got="nothing", remedy="run `dvc repro --force teacher`")
    known = (teacher.teacher.model, teacher.teacher.revision) if p.model == "teacher" else (p.model, p.revision)
    return replace(
        teacher,
        student=student,
        start=source_of(*known, folder, where=where),
        layers=p.layers,
        config=p.config,
        lora=asdict(p.lora) if p.lora else None,
        earlier=None if p.config is not None or p.model == "teacher" else earlier_lineage(*known, where=where),
    )


if __name__ == "__main__":
    run(main)
