"""The commands `stillroom merge` and `stillroom best`, which hand out the student that a run trained."""

from pathlib import Path

import click

from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import LAYOUT


@click.command()
@click.argument("model", type=Path)
@click.argument("out", type=Path)
def merge(model: Path, out: Path) -> None:
    """Merge a LoRA student and its base into an ordinary model.

    MODEL is the adapter in a round of the student; OUT becomes a model directory in float32.
    """
    from pipeline.models.language_model import load_model, save_model
    from pipeline.models.tokenizer import load_tokenizer
    from pipeline.runtime.atomic import whole_directory

    if out.exists():
        raise DataError(out, expected="no such file or directory yet", got="one", remedy="name another, or remove it")
    with whole_directory(out) as folder:
        save_model(load_model(model), folder)
        load_tokenizer(model).save_pretrained(folder)
    click.echo(out)


@click.command()
@click.argument("student")
def best(student: str) -> None:
    """Print the model directory of a student's best round.

    It has the smallest forward KL to the teacher on held-out prompts.
    """
    from pipeline.report.summary import best_round
    from pipeline.runtime.files import read_json
    from pipeline.runtime.rounds import round_list
    from pipeline.runtime.yaml_files import read_yaml

    rounds = [item["id"] for item in round_list(read_yaml(LAYOUT.rounds))]
    measured = [(id_, read_json(LAYOUT.evaluation(f"{student}-{id_}"))["metrics"]) for id_ in rounds]
    closest = best_round(measured)
    if closest is None:
        raise DataError(LAYOUT.evaluations, expected="a finite forward KL", got="none", remedy="see logs/")
    click.echo(LAYOUT.round(student, closest["round"]).model)
