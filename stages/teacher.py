"""Fetch or make the teacher once and save it as an ordinary model directory."""

from pathlib import Path

import click
import torch

from pipeline.fresh import make_fresh
from pipeline.journal import whole_directory
from pipeline.lineage import of_teacher, write_lineage
from pipeline.params import section
from pipeline.pretrained import TeacherParams, load_pretrained
from pipeline.provenance import source_of
from stages.command import PARAMS, cost, run


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
        write_lineage(folder, of_teacher(source_of(name, p.revision, folder, where=where)))


if __name__ == "__main__":
    run(main)
