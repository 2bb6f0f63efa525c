"""Make the first checkpoint of a student.

In: work/students/STUDENT/start.json, which names the model, and work/teacher. Out: work/STUDENT/TO/model, with the
teacher's tokenizer; TO is `init`, or `untuned` before supervised fine-tuning. The checkpoint of a student with
`lora` is an adapter, and work/STUDENT/base holds the frozen weights below it; for other students work/STUDENT/base
holds one line of text.
"""

from typing import Any

import click
import torch

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.checkpoints.provenance import student_lineage
from pipeline.checkpoints.student import NewStudent, StudentParams, start_student
from pipeline.core.hashing import derive_seed
from pipeline.lineage.lineage import write_lineage
from pipeline.models.ending import RARE, end_chance
from pipeline.models.tokenizer import check_head_rows, load_tokenizer, require_same_tokenizer, shared_vocab
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.layout import LAYOUT
from stages._stage import StageContext, Tracked, run, stage


@stage(
    "{student}-init",
    seed=int,
    student=Tracked(key="student.{student}", kind=StudentParams, file=LAYOUT.student_start),
)
def main(ctx: StageContext, p: Any, student: str, to: str) -> None:
    """Write the checkpoint."""
    where, seed, teacher = f"student.{student}", derive_seed(p.seed, "init", student), ctx.layout.teacher
    source = str(teacher) if p.student.model == "teacher" else p.student.model
    checkpoint = ctx.layout.round(student, to).model
    with whole_directory(ctx.layout.base(student)) as base, whole_directory(checkpoint) as folder:
        tokenizer = load_tokenizer(teacher)
        loaded, own = load_pretrained(source, p.student.revision, dtype=torch.float32, where=f"{where}.model")
        require_same_tokenizer(tokenizer, own, (str(teacher), p.student.model))
        rows = loaded.get_output_embeddings().weight.shape[0]
        check_head_rows(rows, shared_vocab(tokenizer), where=f"{where}.model")
        model = start_student(p.student, loaded, seed=seed, where=where)
        chance = end_chance(model, tokenizer) if to == "init" else None  # fine-tuning teaches the ends
        if chance is not None and chance < RARE:
            ctx.warn(
                f"{where}: the chance of an end token after an answer is {chance:.0e}, so hardly any completion will "
                f"end before max_new_tokens: fine-tune it first (sft.{student}), or start from a model that ends"
            )
        NewStudent(model=model, tokenizer=tokenizer, params=p.student, seed=seed, where=where).save(base, folder)
        lineage = student_lineage(student, p.student, teacher, folder, where=f"{where}.model", base=base)
        write_lineage(folder, lineage)
    total, trained = model.num_parameters(), model.num_parameters(only_trainable=True)
    click.echo(f"student {student}: {total:,} parameters, {trained:,} to train")


if __name__ == "__main__":
    run(main)
