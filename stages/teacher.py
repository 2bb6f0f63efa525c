"""Fetch or make the teacher once and save it as an ordinary model directory."""

from pathlib import Path

import click
import torch

from pipeline.checkpoints.pretrained import TeacherParams, load_pretrained
from pipeline.checkpoints.provenance import source_of
from pipeline.checkpoints.random_init import make_fresh
from pipeline.lineage.lineage import teacher_lineage, write_lineage
from pipeline.runtime.config import section
from pipeline.runtime.layout import PARAMS
from pipeline.runtime.resume import whole_directory
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--out", type=Path, required=True, help="work/teacher, or where it waits to be tuned.")
def main(out: Path) -> None:
    p = section(PARAMS, TeacherParams, "teacher")
    with cost("teacher"), whole_directory(out) as folder:
        dtype, where = getattr(torch, p.dtype), "teacher.model"
        if isinstance(p.model, str):
            name = p.model
            model, tokenizer = load_pretrained(name, p.revision, dtype=dtype, where=where)
        else:
            name = p.model.name
            model, tokenizer = make_fresh(p.model, where=where)
            model = model.to(dtype)
        click.echo(f"teacher: write {model.num_parameters():,} parameters")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_lineage(folder, teacher_lineage(source_of(name, p.revision, folder, where=where)))


if __name__ == "__main__":
    run(main)
