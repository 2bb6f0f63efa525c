"""Make a student's first checkpoint, work/STUDENT/init/model, with the teacher's tokenizer."""

from pathlib import Path

import click
import torch

from pipeline.fingerprint import derive_seed
from pipeline.journal import whole_directory
from pipeline.params import lookup, section
from pipeline.pretrained import StudentParams, load_pretrained, start_student
from pipeline.text import load_tokenizer, require_same_tokenizer
from stages.command import PARAMS, TEACHER, cost, run


@click.command(help=__doc__)
@click.option("--student", required=True)
def main(student: str) -> None:
    where, seed = f"student.{student}", lookup(PARAMS, "seed")
    p = section(PARAMS, StudentParams, "student", student)
    source = str(TEACHER) if p.model == "teacher" else p.model
    with cost(f"{student}-init"), whole_directory(Path(f"work/{student}/init/model")) as folder:
        base, tokenizer = load_pretrained(source, p.revision, dtype=torch.float32, where=f"{where}.model")
        require_same_tokenizer(load_tokenizer(TEACHER), tokenizer, (str(TEACHER), p.model))
        model = start_student(p, base, seed=derive_seed(seed, "init", student), where=where)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    click.echo(f"student {student}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    run(main)
