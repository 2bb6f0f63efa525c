"""The commands of bench/evidence/dvc.yaml, one per stage; all run in bench/evidence."""

import os
from pathlib import Path
from typing import Any

import click

from bench.evidence import runs
from bench.evidence.llama2c import write_judge, write_teacher
from bench.evidence.stories import StoryParams, write_stories
from bench.evidence.tables import write_tables
from bench.output import Row, write_json
from pipeline.runtime.config import section
from pipeline.runtime.files import read_json
from pipeline.runtime.yaml_files import read_yaml

_PARAMS, _ROWS, _TABLES = Path("params.yaml"), Path("rows"), Path("tables")
_DEFAULT = Path("../../presets/default.yaml")


@click.group()
def main() -> None:
    """Run one stage of the evidence."""


@main.command()
def data() -> None:
    """Convert teacher and judge, and let the judge write the stories."""
    write_teacher(Path(os.environ.get("STILLROOM_DATA", "../../../shared/data")).resolve() / "stories", runs.TEACHER)
    write_judge(runs.JUDGE)
    write_stories(runs.JUDGE, runs.STORIES, section(_PARAMS, StoryParams, "stories"))


@main.command()
def projects() -> None:
    """Make the projects."""
    runs.make_project(Path("stories.yaml"), _DEFAULT)
    runs.make_truncated(_DEFAULT)


@main.command()
@click.argument("seed", type=int)
def start(seed: int) -> None:
    """Train a student until off-policy steps no longer change it."""
    name = "validation" if seed == _params()["tuning"]["seed"] else "exact"
    home = _start(name, seed)
    _write(f"start-{seed}", [{"method": "start", "store": name, "seed": seed} | runs.measured(home)])


@main.command()
@click.argument("method")
def tune(method: str) -> None:
    """Train with a method at each learning rate from the tuning seed's start, and measure on validation prompts."""
    seed, rates = _params()["tuning"]["seed"], _params()["tuning"]["rates"]
    home = _start("validation", seed)
    rows = [runs.run_method("validation", method, rate, seed, home) for rate in rates]
    _write(f"tune-{method}", rows)


@main.command()
@click.argument("method")
@click.argument("store", default="exact")
def compare(method: str, store: str) -> None:
    """Train with a method at its learning rate from every start; STORE is the project."""
    seeds = [seed for seed in _params()["seeds"] if seed != _params()["tuning"]["seed"]]
    rows = [runs.run_method(store, method, _rate(method), seed, _start("exact", seed)) for seed in seeds]
    _write(f"{store}-{method}", rows)


@main.command()
@click.argument("divergence")
@click.argument("refresh", type=int)
def stale(divergence: str, refresh: int) -> None:
    """Train on-policy with new completions after every REFRESH steps, each used as often as params.yaml says."""
    method, p = f"on-{divergence}", _params()["staleness"]
    rows = [
        runs.run_method("exact", method, _rate(method), seed, _start("exact", seed), refresh=refresh, uses=uses)
        for uses in p["uses"]
        for seed in p["seeds"]
    ]
    _write(f"stale-{divergence}-{refresh}", rows)


@main.command()
def tables() -> None:
    """Write the table and the figure of each question from the rows."""
    rows = [row for path in sorted(_ROWS.glob("*.json")) for row in read_json(path)["rows"]]
    write_tables(rows, _params()["methods"], _params()["baseline"], _TABLES)


def _params() -> dict[str, Any]:
    return read_yaml(_PARAMS)


def _rate(method: str) -> float:
    """Return the learning rate with which the judge likes a method's samples best on the validation prompts."""
    rows: list[Row] = read_json(_ROWS / f"tune-{method}.json")["rows"]
    return float(min(rows, key=lambda row: row["nats_per_byte"])["rate"])


def _start(name: str, seed: int) -> Path:
    return runs.train_start(name, seed, section(_PARAMS, runs.StartParams, "start"))


def _write(name: str, rows: list[Row]) -> None:
    _ROWS.mkdir(exist_ok=True)
    write_json(_ROWS / f"{name}.json", rows)
