"""Make the teacher an ordinary model directory.

In: a hub name, a directory, a .gguf file or a configuration, as params.yaml has it. Out: work/teacher, or work/base if
supervised fine-tuning follows.
"""

from pathlib import Path
from typing import Any

import click
import torch

from pipeline.checkpoints.pretrained import TeacherParams, load_pretrained
from pipeline.checkpoints.provenance import source_of
from pipeline.checkpoints.random_init import make_fresh
from pipeline.lineage.lineage import teacher_lineage, write_lineage
from pipeline.runtime.atomic import whole_directory
from stages._stage import StageContext, run, stage

_WHERE = "teacher.model"


@stage("teacher", teacher=TeacherParams)
@click.option("--out", type=Path, required=True, help="work/teacher, or work/base before supervised fine-tuning.")
def main(_: StageContext, p: Any, out: Path) -> None:
    """Write the teacher."""
    with whole_directory(out) as folder:
        name, model, tokenizer = _load(p.teacher)
        click.echo(f"teacher: write {model.num_parameters():,} parameters")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_lineage(folder, teacher_lineage(source_of(name, p.teacher.revision, folder, where=_WHERE)))


def _load(p: TeacherParams) -> tuple[str, Any, Any]:
    """Return the name, the model and the tokenizer of the teacher."""
    dtype = getattr(torch, p.dtype)
    if isinstance(p.model, str):
        return p.model, *load_pretrained(p.model, p.revision, dtype=dtype, where=_WHERE)
    model, tokenizer = make_fresh(p.model, where=_WHERE)
    return p.model.name, model.to(dtype), tokenizer


if __name__ == "__main__":
    run(main)
