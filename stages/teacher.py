"""Make the teacher an ordinary model directory.

In: a hub name, a directory, a .gguf file or a configuration, as params.yaml has it. The directory OUT is
work/teacher, or work/base if supervised fine-tuning follows.
"""

from pathlib import Path
from typing import Any

import click

from pipeline.checkpoints.pretrained import TeacherParams, load_teacher
from pipeline.checkpoints.provenance import source_of
from pipeline.lineage.lineage import teacher_lineage, write_lineage
from pipeline.models.round_trip import check_written, probe_logits
from pipeline.models.tokenizer import add_end_ids, save_tokenizer
from pipeline.runtime.atomic import whole_directory
from stages._stage import StageContext, run, stage

_WHERE = "teacher.model"


@stage("teacher", teacher=TeacherParams)
def main(_: StageContext, p: Any, out: Path) -> None:
    """Write the teacher."""
    with whole_directory(out) as folder:
        name, model, tokenizer = load_teacher(p.teacher, where=_WHERE)
        click.echo(f"teacher: write {model.num_parameters():,} parameters")
        model.save_pretrained(folder)
        add_end_ids(tokenizer, model.generation_config.to_dict())
        save_tokenizer(tokenizer, folder)
        expected = probe_logits(model)
        del model  # the directory is read again
        check_written(folder, expected, where=out)
        write_lineage(folder, teacher_lineage(source_of(name, p.teacher.revision, folder, where=_WHERE)))


if __name__ == "__main__":
    run(main)
