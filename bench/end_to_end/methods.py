"""Methods of distillation compared at equal optimizer steps: one teacher, one corpus, one start of the student a seed.

    stillroom preset arithmetic-tiny && dvc repro corpus evaluate_teacher
    python -m bench.end_to_end.methods --seeds 3 --json FILE --svg FILE

Each way is the project's params.yaml with a method of presets/methods over it; the stages are the pipeline's own, run
in this process (`dvc exp run` does the same, and takes six seconds to start each of them). A seed makes the student's
weights, its tuning, its rollouts, the order of batches and what is sampled in the evaluation; teacher, prompts and
corpus stay, and the store answers for what was scored before. A run that is there with equal parameters is not
repeated. The standard error is that of a mean over seeds, its variance pooled over the ways.
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

from bench.end_to_end.job import go_round, run_stage
from bench.end_to_end.methods_picture import draw
from bench.output import Row, show
from pipeline.report.jobs import round_list
from pipeline.report.metric_titles import measure
from pipeline.runtime.config import lookup
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import PARAMS, store_root
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.presets import METHODS, combined
from pipeline.workspace.schedule import ROUNDS, follow_params

SHARED = ("teacher", "prompts", "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A method, and what else it changes in params.yaml."""

    name: str
    method: str
    changes: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name as a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def on_policy(name: str, divergence: str, **objective: Any) -> Way:
    changes: dict[tuple[str, ...], Any] = {("objective", key): value for key, value in objective.items()}
    return Way(name=name, method="on-policy", changes={("objective", "divergence", "name"): divergence} | changes)


WAYS = [
    Way(name="SFT", method="sft"),
    Way(name="supervised KD", method="supervised"),
    Way(name="sequence-level KD", method="sequence-level"),
    Way(name="mixed, forward KL", method="mixed"),
    on_policy("on-policy, forward KL", "forward_kl"),
    on_policy("on-policy, reverse KL", "reverse_kl"),
    on_policy("on-policy, JSD(.5)", "jsd"),
]


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Ways to run; default: all.")
@click.option("--runs", type=Path, default=Path("runs"), show_default=True, help="Where the runs are kept.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--svg", type=Path, help="Draw them here.")
def main(seeds: int, only: tuple[str, ...], runs: Path, out: Path | None, svg: Path | None) -> None:
    os.environ["STILLROOM_STORE"] = str(store_root().resolve())
    ways = [one for one in WAYS if not only or one.name in only]
    rows = [row for seed in range(seeds) for row in run_seed(ways, seed, runs.resolve())]
    teacher = read_json(Path("work/evaluations/teacher.json"))
    columns = [teacher["headline"], f"sampled_{teacher['headline']}", "forward_kl", "reverse_kl"]
    show(table(rows, columns, teacher["metrics"]), rows, out, teacher=teacher["metrics"])
    if svg is not None:
        draw(svg, rows, columns, teacher["metrics"])


def run_seed(ways: Sequence[Way], seed: int, runs: Path) -> list[Row]:
    """The student as it starts, and what every way made of it."""
    (student,), project = lookup(PARAMS, "students"), Path.cwd()
    begin = runs / f"start-{seed}"
    if _prepare(begin, edit_yaml(PARAMS, {("seed",): seed}), project, SHARED):
        with chdir(begin):
            _start(student)
    rows = [_row("before", seed, begin, student, "init")]
    for way in ways:
        home = runs / f"{way.folder}-{seed}"
        if _prepare(home, _params(way, seed), project, SHARED):
            for part in ("base", "init"):
                link(home / "work" / student / part, begin / "work" / student / part)
            with chdir(home):
                _distil(student)
        last = round_list(read_yaml(home / ROUNDS))[-1]["id"]
        rows.append(_row(way.name, seed, home, student, last))
        click.echo(f"{way.name}, seed {seed}: {rows[-1]}")
    return rows


def _params(way: Way, seed: int) -> str:
    path = Path("methods-params.yaml")
    path.write_text(combined(PARAMS, METHODS / f"{way.method}.yaml"))
    text = edit_yaml(path, {("seed",): seed} | way.changes)
    path.unlink()
    return text


def _prepare(home: Path, params: str, project: Path, shared: Sequence[str]) -> bool:
    """A directory of its own with these parameters; False when its run is there already."""
    if (home / "done").is_file() and (home / PARAMS).read_text() == params:
        return False
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / PARAMS).write_text(params)
    for one in shared:
        link(home / "work" / one, project / "work" / one)
    with chdir(home):
        follow_params()
    return True


def link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def _start(student: str) -> None:
    """The student's first checkpoint, tuned where params.yaml asks for it, and measured."""
    document = read_yaml(ROUNDS)
    run_stage("init", student=student, to=document["starts"][student])
    if tuned := document["tuned"].get(student):
        log = f"logs/{student}/sft/train.csv"
        run_stage("sft", name=student, model=tuned["base"], out=tuned["out"], log=log)
    _evaluate(student, "init")
    Path("done").touch()


def _distil(student: str) -> None:
    """Every round, and the last checkpoint measured."""
    rounds = round_list(read_yaml(ROUNDS))
    for item in rounds:
        go_round(student, item)
    _evaluate(student, rounds[-1]["id"])
    Path("done").touch()


def _evaluate(student: str, checkpoint: str) -> None:
    run_stage("evaluate", name=f"{student}-{checkpoint}", model=f"work/{student}/{checkpoint}/model")


def _row(way: str, seed: int, home: Path, student: str, checkpoint: str) -> Row:
    found = read_json(home / f"work/evaluations/{student}-{checkpoint}.json")
    costs = [read_json(one) for one in (home / "work/costs").glob("*-score.json")]
    asked = sum(one["positions"] for one in costs)
    return {"name": way, "seed": seed, **found["metrics"], "scored_positions": asked}


def table(rows: Sequence[Row], columns: Sequence[str], teacher: dict[str, float]) -> list[list[str]]:
    """Means over seeds, a row a way, and the pooled standard error of such a mean below."""
    values = {way: [one for one in rows if one["name"] == way] for way in dict.fromkeys(one["name"] for one in rows)}
    lines = [["", *(measure(key).title for key in columns)]]
    lines.append(["teacher", *(measure(key).show(teacher.get(key)) for key in columns)])
    for way, some in values.items():
        lines.append([way, *(measure(key).show(mean(one[key] for one in some)) for key in columns)])
    errors = [pooled_error([[one[key] for one in some] for some in values.values()]) for key in columns]
    return [*lines, ["standard error", *(measure(key).show(one) for key, one in zip(columns, errors, strict=True))]]


def pooled_error(groups: Sequence[Sequence[float]]) -> float | None:
    """Of a group's mean: groups of equal size, whose variance is taken to be the same; None for single values."""
    if min(map(len, groups)) < 2:
        return None
    return sqrt(mean(map(variance, groups)) / len(groups[0]))


if __name__ == "__main__":
    main()
