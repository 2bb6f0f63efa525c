"""Fetch the teacher once and save it as an ordinary model directory, work/teacher."""

import click
import torch

from pipeline.journal import whole_directory
from pipeline.lineage import of_teacher, write_lineage
from pipeline.params import section
from pipeline.pretrained import TeacherParams, load_pretrained
from pipeline.provenance import source_of
from stages.command import PARAMS, TEACHER, cost, run


@click.command(help=__doc__)
def main() -> None:
    p = section(PARAMS, TeacherParams, "teacher")
    with cost("teacher"), whole_directory(TEACHER) as folder:
        model, tokenizer = load_pretrained(p.model, p.revision, dtype=getattr(torch, p.dtype), where="teacher.model")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_lineage(folder, of_teacher(source_of(p.model, p.revision, folder, where="teacher.model")))


if __name__ == "__main__":
    run(main)
