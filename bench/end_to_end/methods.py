"""Compare methods of distillation at equal steps: one teacher, one fixed corpus, one initial student per seed.

    stillroom preset arithmetic-tiny && dvc repro score@corpus evaluate@teacher
    python -m bench.end_to_end.methods --seeds 3 --json FILE --svg FILE

Each configuration is the project's params.yaml with a method of presets/methods over it, and mostly a divergence of
presets/divergences. The project's fixed corpus stays. The stages are the pipeline's own, run in this process (`dvc exp
run` does the same and takes six seconds to start each of them).

- A seed sets the student's initial weights, its fine-tuning, its rollouts, the order of batches, and the completions of
  the evaluation. Teacher, prompts and fixed corpus are shared, and the store returns what was scored before.
- A run that exists with equal parameters is not repeated.
- The standard error is the error of a mean over seeds; its variance is pooled over the configurations.
"""

import os
import re
import shutil
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

import click

from bench.end_to_end.job import run_round, run_stage
from bench.end_to_end.methods_picture import render_methods
from bench.output import Row, show
from pipeline.report.metric_titles import measure
from pipeline.runtime.config import lookup
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, Layout, round_list, store_root
from pipeline.runtime.yaml_files import edit_yaml, overlay_yaml, read_yaml
from pipeline.workspace.presets import DIVERGENCES, METHODS
from pipeline.workspace.schedule import ROUNDS, follow_params
from pipeline.workspace.students import write_students

DONE = "done"  # the file that marks a finished run
SHARED = ("teacher", "prompts", "corpus", "evaluations/prompts/teacher.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a configuration lays over the project's params.yaml: a method, a divergence and single changes."""

    name: str
    method: str
    divergence: str | None = None
    """The divergence; None leaves that of the method or of the project."""
    changes: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


CONFIGURATIONS = [
    Configuration(name="SFT", method="sft"),
    Configuration(name="supervised KD", method="supervised"),
    Configuration(name="sequence-level KD", method="sequence-level"),
    Configuration(name="teacher KD", method="teacher"),
    Configuration(name="teacher KD, reverse KL", method="teacher", divergence="reverse_kl"),
    Configuration(name="teacher KD, JSD(0.5)", method="teacher", divergence="jsd"),
    Configuration(name="mixed, forward KL", method="mixed", divergence="forward_kl"),
    Configuration(name="on-policy, forward KL", method="on-policy", divergence="forward_kl"),
    Configuration(name="on-policy, reverse KL", method="on-policy", divergence="reverse_kl"),
    Configuration(name="on-policy, JSD(0.5)", method="on-policy", divergence="jsd"),
]


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Configurations to run, by their names; default: all.")
@click.option("--runs", type=Path, default=Path("runs"), show_default=True, help="Directory of the runs.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--svg", type=Path, help="Write the picture of the rows here.")
def main(seeds: int, only: tuple[str, ...], runs: Path, out: Path | None, svg: Path | None) -> None:
    """Run the benchmark and print its table."""
    os.environ["STILLROOM_STORE"] = str(store_root().resolve())
    configurations = [entry for entry in CONFIGURATIONS if not only or entry.name in only]
    rows = [row for seed in range(seeds) for row in run_seed(configurations, seed, runs.resolve())]
    teacher = read_json(LAYOUT.evaluation("teacher"))
    columns = [teacher["headline"], f"{teacher['headline']}_at_1", "forward_kl", "reverse_kl"]
    show(table(rows, columns, teacher["metrics"]), rows, out, teacher=teacher["metrics"])
    if svg is not None:
        svg.write_text(render_methods(rows, columns, teacher["metrics"]), encoding="utf-8")


def run_seed(configurations: Sequence[Configuration], seed: int, runs: Path) -> list[Row]:
    """Run every configuration with a seed; return a row of the initial student and one row per configuration."""
    (student,), project = lookup(LAYOUT.params, "students"), Path.cwd()
    initial = runs / f"start-{seed}"
    if prepare(initial, edit_yaml(LAYOUT.params, {("seed",): seed}), project, SHARED):
        with chdir(initial):
            make_start(student)
        (initial / DONE).touch()
    rows = [_row("before", seed, initial, student, "init")]
    for configuration in configurations:
        home = runs / f"{configuration.folder}-{seed}"
        if prepare(home, _params(configuration, seed), project, SHARED):
            for part in (f"{student}/base", f"{student}/init", f"evaluations/prompts/{student}-init.parquet"):
                link(home / "work" / part, initial / "work" / part)
            with chdir(home):
                distil(student)
            (home / DONE).touch()
        last = round_list(read_yaml(home / ROUNDS))[-1]["id"]
        rows.append(_row(configuration.name, seed, home, student, last))
        click.echo(f"{configuration.name}, seed {seed}: {rows[-1]}")
    return rows


def _params(configuration: Configuration, seed: int) -> str:
    path, overlays = Path("methods-params.yaml"), [METHODS / f"{configuration.method}.yaml"]
    if configuration.divergence:
        overlays.append(DIVERGENCES / f"{configuration.divergence}.yaml")
    path.write_text(overlay_yaml(LAYOUT.params, *overlays), encoding="utf-8")
    corpus = {("corpus", key): value for key, value in lookup(LAYOUT.params, "corpus").items()}
    text = edit_yaml(path, {("seed",): seed} | corpus | configuration.changes)
    path.unlink()
    return text


def prepare(home: Path, params: str, project: Path, shared: Sequence[str]) -> bool:
    """Make the directory of a run with these parameters; return False where it has a finished run with them."""
    if (home / DONE).is_file() and Layout(home).params.read_text(encoding="utf-8") == params:
        return False
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    Layout(home).params.write_text(params, encoding="utf-8")
    for name in shared:
        link(home / "work" / name, project / "work" / name)
    with chdir(home):
        follow_params()
    write_students(Layout(home))
    return True


def link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def make_start(student: str) -> None:
    """Make the student's initial checkpoint, fine-tune it where params.yaml has an entry in `sft`, and evaluate it."""
    document = read_yaml(ROUNDS)
    run_stage("init", student=student, to=document["starts"][student])
    if tuned := document["tuned"].get(student):
        log = LAYOUT.round(student, "sft").log
        run_stage("sft", name=student, model=tuned["base"], out=tuned["out"], log=log)
    _evaluate(student, "init")


def distil(student: str) -> None:
    """Run every round and evaluate the last checkpoint."""
    rounds = round_list(read_yaml(ROUNDS))
    for item in rounds:
        run_round(student, item)
    _evaluate(student, rounds[-1]["id"])


def _evaluate(student: str, checkpoint: str) -> None:
    run_stage("evaluate", name=f"{student}-{checkpoint}", model=LAYOUT.round(student, checkpoint).model)


def _row(name: str, seed: int, home: Path, student: str, checkpoint: str) -> Row:
    evaluation = read_json(Layout(home).evaluation(f"{student}-{checkpoint}"))
    costs = [read_json(path) for path in Layout(home).costs.glob("*-score.json")]
    scored = sum(cost["positions"] for cost in costs)
    return {"name": name, "seed": seed, **evaluation["metrics"], "scored_positions": scored}


def table(rows: Sequence[Row], columns: Sequence[str], teacher: dict[str, float]) -> list[list[str]]:
    """Return means over seeds, one row per configuration, and below them the pooled standard error of a mean."""
    names = dict.fromkeys(row["name"] for row in rows)
    groups = {name: [row for row in rows if row["name"] == name] for name in names}
    lines = [["", *(measure(key).title for key in columns)]]
    lines.append(["teacher", *(measure(key).show(teacher.get(key)) for key in columns)])
    for name, group in groups.items():
        lines.append([name, *(measure(key).show(mean(row[key] for row in group)) for key in columns)])
    errors = [pooled_error([[row[key] for row in group] for group in groups.values()]) for key in columns]
    return [*lines, ["standard error", *(measure(key).show(error) for key, error in zip(columns, errors, strict=True))]]


def pooled_error(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard error of a group's mean, with one variance for all groups; None for groups of one value.

    All groups have the same size.
    """
    if min(map(len, groups)) < 2:
        return None
    return sqrt(mean(map(variance, groups)) / len(groups[0]))


if __name__ == "__main__":
    main()
