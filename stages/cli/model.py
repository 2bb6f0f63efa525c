"""`stillroom merge` and `stillroom best`: the student that a run ends with, as one directory and by its quality."""

from pathlib import Path

import click

from pipeline.runtime.errors import DataError
from pipeline.runtime.layout import LAYOUT


@click.command()
@click.argument("model", type=Path)
@click.argument("out", type=Path)
def merge(model: Path, out: Path) -> None:
    """Write MODEL, an adapter in a student's round, with its base to OUT as one ordinary model directory (float32)."""
    from pipeline.models.language_model import load_model, save_model
    from pipeline.models.tokenizer import load_tokenizer
    from pipeline.runtime.resume import whole_directory

    if out.exists():
        raise DataError(out, expected="no such file or directory yet", got="one", remedy="name another, or remove it")
    with whole_directory(out) as folder:
        save_model(load_model(model), folder)
        load_tokenizer(model).save_pretrained(folder)
    click.echo(out)


@click.command()
@click.argument("student")
def best(student: str) -> None:
    """Print the directory of the round of STUDENT that has the smallest forward KL on held-out prompts."""
    from pipeline.report.summary import best_round
    from pipeline.runtime.files import read_json
    from pipeline.runtime.rounds import round_list
    from pipeline.runtime.yaml_files import read_yaml

    rounds = [item["id"] for item in round_list(read_yaml(LAYOUT.rounds))]
    measured = [(id_, read_json(LAYOUT.evaluations / f"{student}-{id_}.json")["metrics"]) for id_ in rounds]
    found = best_round(measured)
    if found is None:
        raise DataError(LAYOUT.evaluations, expected="a finite forward KL", got="none", remedy="see logs/")
    click.echo(LAYOUT.round(student, found["round"]).model)
