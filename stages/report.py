"""Gather evaluations, logs and costs into report/: metrics.json, loss.csv, picture.svg, and the table it prints."""

from pathlib import Path
from typing import Any

import click

from pipeline.params import lookup, read_yaml
from pipeline.picture import draw_run
from pipeline.report import render_table, summarise, write_losses
from pipeline.tables import read_json, replacing, write_json
from pipeline.training_log import read_log
from stages.command import COSTS, PARAMS, run

EVALUATIONS = Path("work/evaluations")


@click.command(help=__doc__)
def main() -> None:
    students, document = lookup(PARAMS, "students"), read_yaml(Path("rounds.yaml"))
    rounds = [one["id"] for one in document["rounds"]]
    measured = {
        name: [(id_, read_json(EVALUATIONS / name / f"{id_}.json")["metrics"]) for id_ in document["checkpoints"]]
        for name in students
    }
    teacher = read_json(EVALUATIONS / "teacher.json")
    metrics = summarise(teacher["headline"], teacher["metrics"], measured, _costs(students, rounds))
    logs = {
        name: [row for id_ in rounds for row in read_log(Path(f"logs/{name}/{id_}/train.csv"))] for name in students
    }
    write_json(Path("report/metrics.json"), metrics)
    with replacing(Path("report/loss.csv")) as temporary, temporary.open("w", newline="") as file:
        write_losses(file, logs)
    with replacing(Path("report/picture.svg")) as temporary:
        draw_run(temporary, metrics, [0, *(one["first_step"] + one["steps"] for one in document["rounds"])])
    with replacing(Path("report/table.md")) as temporary:
        temporary.write_text(render_table(metrics))
    click.echo(Path("report/table.md").read_text())


def _costs(students: list[str], rounds: list[str]) -> dict[str, Any]:
    """The costs of this schedule's stages; those of rounds that it no longer has stay out."""
    names = ["prepare", "teacher", "teacher-evaluate", "generate", "corpus-score"]
    for student in students:
        names += [f"{student}-init", f"{student}-init-evaluate"]
        names += [f"{student}-{id_}-{stage}" for id_ in rounds for stage in ("rollout", "score", "train", "evaluate")]
    return {name: read_json(COSTS / f"{name}.json") for name in names}


if __name__ == "__main__":
    run(main)
