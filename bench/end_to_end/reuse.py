"""Measure the cost of stored scores: three students of one fixed corpus, beside a loop with a live teacher.

    python -m bench.end_to_end.reuse --json FILE

Three students (the student of params.yaml, and two with fewer layers) go through the pipeline's stages one after the
other, with one store that is empty at first. The same students go through `bench.end_to_end.live`, which takes the same
steps with teacher and student in memory. The first student goes a third time on fixed data: the same steps on the
scored corpus alone, so that on-policy training can be compared with it. Steps, rounds and corpus are scaled down
together from the default job; its sampling, batches and objective (with forward KL) are kept. Run the benchmark in the
directory of a finished job, whose teacher and prompts it uses (work/).

- Everything runs in this process: loading models, hashing and checkpoints count for the pipeline, the start of Python
  and DVC do not.
- `teacher_tokens` counts the tokens that the teacher reads; a prompt counts once for the completions that share a pass.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.end_to_end.job import Spent, initialise_student, job, make_corpus, merged, run_round, seconds_of, tokens_of
from bench.end_to_end.live import Live, run_live
from bench.output import Row, show
from pipeline.rollout.collect import CorpusParams
from pipeline.runtime.config import parse
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import read_yaml

_STUDENTS = ("first", "second", "third")
_SHARES = (1.0, 0.75, 0.5)  # of the layers of the student in params.yaml


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--steps", default=6, show_default=True, help="Optimizer steps of each student.")
@click.option("--refresh", default=3, show_default=True, help="Steps between new rollouts.")
@click.option("--students", default=3, show_default=True, type=click.IntRange(1, 3))
def main(out: Path | None, steps: int, refresh: int, students: int) -> None:
    """Run the benchmark and print its table."""
    names = _STUDENTS[:students]
    changes = scaled(read_yaml(LAYOUT.params), names, steps=steps, refresh=refresh)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder) / "job", changes, names)
        fixed = merged(changes, {"batches": {"student_fraction": 0.0}, "rollout": {"prompts": 0}})
        rows.append(on_fixed_data(Path(folder) / "fixed", fixed, names[0]))
    compared(rows)
    show(table(rows), rows, out, steps=steps, refresh=refresh)


def scaled(document: Mapping[str, Any], names: Sequence[str], *, steps: int, refresh: int) -> dict[str, Any]:
    """Return the changes of params.yaml for a job of `steps` with as many passes over its rollouts and its corpus."""
    schedule, rollout, corpus = document["schedule"], document["rollout"], document["corpus"]
    prompts = max(1, round(rollout["prompts"] * refresh / schedule["refresh_every"]))
    share = steps / schedule["total_steps"]
    counts = parse(CorpusParams, corpus, where="corpus").prompts_of(document["task"]["train"])
    smaller_corpus = {
        name: max(1, round(count * share))
        for name, count in zip(("references", "generations"), counts, strict=True)
        if count
    }
    student = document["student"][document["students"][0]]
    return {
        "students": list(names),
        "student": {
            name: student | {"layers": thinned(student["layers"], part)}
            for name, part in zip(names, _SHARES, strict=False)
        },
        "schedule": {"total_steps": steps, "refresh_every": refresh, "max_staleness": None},
        "rollout": {"prompts": prompts},
        "corpus": smaller_corpus,
        "replay": {"rounds": 0},
        "objective": {
            "divergence": {"name": "forward_kl"},
            "tail_estimator": "auto",
            "cross_entropy": 0.0,
            "alpha": 1.0,
        },
        "reward": {},
    }


def thinned(layers: Any, share: float) -> Any:
    """Return a share of a list of layers with its first and last; a student with all layers is left unchanged."""
    if not isinstance(layers, list) or len(layers) < 2:
        return layers
    count = max(2, round(len(layers) * share))
    return [layers[round(index * (len(layers) - 1) / (count - 1))] for index in range(count)]


def measured(folder: Path, changes: Mapping[str, Any], names: Sequence[str]) -> list[Row]:
    """Return rows of the corpus, of each student in the pipeline, and of each student with a live teacher."""
    with job(folder, changes) as rounds:
        corpus = make_corpus()
        for name in names:
            initialise_student(name)
        ours = {name: [spent for item in rounds for spent in run_round(name, item)] for name in names}
        live = {name: run_live(name, rounds, folder / "live") for name in names}
    return [
        pipeline_row("pipeline: corpus, once", corpus),
        *(pipeline_row(f"pipeline: {name} student", spent) for name, spent in ours.items()),
        *(live_row(f"live teacher: {name} student", run) for name, run in live.items()),
    ]


def on_fixed_data(folder: Path, changes: Mapping[str, Any], name: str) -> Row:
    """Return the row of a student that trains on the corpus alone, in one round; the corpus is off the clock."""
    once = {"schedule": {"refresh_every": changes["schedule"]["total_steps"]}}
    with job(folder, merged(changes, once)) as rounds:
        make_corpus()
        initialise_student(name)
        return pipeline_row(
            f"fixed data: {name} student", [spent for item in rounds for spent in run_round(name, item)]
        )


def pipeline_row(name: str, spent: list[Spent]) -> Row:
    """Return a row of the pipeline with its seconds by stage and its tokens."""
    return {
        "name": name,
        "teacher_tokens": tokens_of(spent, "score"),
        "teacher_written_tokens": tokens_of(spent, "generate"),
        "trained_tokens": tokens_of(spent, "train"),
        "seconds": seconds_of(spent),
        "rollout_seconds": seconds_of(spent, "rollout") + seconds_of(spent, "generate"),
        "score_seconds": seconds_of(spent, "score"),
        "train_seconds": seconds_of(spent, "train"),
    }


def live_row(name: str, live: Live) -> Row:
    """Return a row of the live loop, which scores while it trains."""
    return {
        "name": name,
        "teacher_tokens": live.teacher_tokens,
        "teacher_written_tokens": 0,
        "trained_tokens": live.trained_tokens,
        "seconds": live.rollout_seconds + live.train_seconds,
        "rollout_seconds": live.rollout_seconds,
        "score_seconds": 0.0,
        "train_seconds": live.train_seconds,
    }


def compared(rows: Sequence[Row]) -> None:
    """Add each student's ratios to the live teacher's row, and the first student's ratio to the row of fixed data."""
    by_name = {row["name"]: row for row in rows}
    for row in rows:
        kind, _, student = row["name"].partition(": ")
        live = by_name.get(f"live teacher: {student}")
        if kind == "pipeline" and live is not None:
            row["of_live_teacher_tokens"] = row["teacher_tokens"] / live["teacher_tokens"]
            row["of_live_seconds"] = row["seconds"] / live["seconds"]
        fixed = by_name.get(f"fixed data: {student}")
        if kind == "pipeline" and fixed is not None:
            row["of_fixed_seconds"] = row["seconds"] / fixed["seconds"]


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table to print."""
    keys = ("seconds", "rollout_seconds", "score_seconds", "train_seconds")
    lines = [["run", "teacher tokens", "seconds", "rollouts", "scores", "training", "of live", "of fixed"]]
    for row in rows:
        shares = [f"{row[key]:.2f}" if key in row else "" for key in ("of_live_seconds", "of_fixed_seconds")]
        lines.append([row["name"], f"{row['teacher_tokens']:,}", *(f"{row[key]:.1f}" for key in keys), *shares])
    return lines


if __name__ == "__main__":
    main()
