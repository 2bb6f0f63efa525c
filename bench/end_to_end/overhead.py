"""Find out how much of a small run is the stages' own work: run the job of a commit twice, each time in a fresh clone.

    python -m bench.end_to_end.overhead --json FILE

`stillroom repro` forks every stage from one process that has imported their packages; `dvc repro` starts a process with
its own imports for each. Each clone has a cache and a store of its own, so every stage runs.

- Own work is what the stages below `stillroom repro` wrote into work/costs, in processor seconds. It contains loading
  models, hashing and writing, and no imports. The rest is DVC, and starting processes.
- The benchmark fails if the students of the two runs differ in a bit.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bench.clock import timed
from bench.output import Row, show
from pipeline.core.hashing import tree_digest
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout, round_list
from pipeline.runtime.yaml_files import read_yaml

_COMMANDS = {"stillroom repro": ["stages.cli", "repro"], "dvc repro": ["dvc", "repro"]}


@click.command(help=__doc__)
@click.option("--commit", default="HEAD", show_default=True)
@click.option("--target", "targets", multiple=True, help="Stages to run; all without this option.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(commit: str, targets: tuple[str, ...], out: Path | None) -> None:
    """Run the job and print the table."""
    rows: list[Row] = []
    students: list[list[str]] = []
    own: dict[str, float] = {}
    parse = ["git", "rev-parse", commit]
    commit = subprocess.run(parse, check=True, capture_output=True, text=True, encoding="utf-8").stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        for name, module in _COMMANDS.items():
            clone = Path(folder, name.replace(" ", "-"))
            rows.append({"command": name} | run_job(clone, [*module, *targets], commit))
            students.append(fingerprints(Layout(clone)))
            own = own or stage_seconds(Layout(clone))
    if students[0] != students[1]:
        raise click.ClickException("the two runs made different students")
    for row in rows:
        row["own_share"] = sum(own.values()) / row["seconds_of_processor"]
    header = ["command", "seconds", "of processor", "stages' own work"]
    show([header, *map(_line, rows)], rows, out, own_work=own)
    click.echo("own work in processor seconds: " + ", ".join(f"{key} {value:.1f}" for key, value in own.items()))


def run_job(clone: Path, command: list[str], commit: str) -> Row:
    """Clone the repository, run `python -m COMMAND` in the clone, and return the time of all processes."""
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ".", clone], check=True)
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=clone, check=True)
    env = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(clone),
        "STILLROOM_STORE": str(clone / ".store"),
        "DVC_SITE_CACHE_DIR": str(clone / ".scratch/site"),
    }
    words, before = [sys.executable, "-m", *command], os.times()
    took = timed(lambda: subprocess.run(words, cwd=clone, env=env, check=True, stdout=sys.stderr))
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": took["seconds"], "seconds_of_processor": processor}


def stage_seconds(layout: Layout) -> dict[str, float]:
    """Return the processor seconds that each kind of stage wrote into its entries in work/costs."""
    seconds: dict[str, float] = {}
    for path in sorted(layout.costs.glob("*.json")):
        kind = path.stem.rpartition("-")[2]
        seconds[kind] = seconds.get(kind, 0.0) + read_json(path)["processor_seconds"]
    return seconds


def fingerprints(layout: Layout) -> list[str]:
    """Return the digest of every round's model that a run made."""
    students, rounds = read_yaml(layout.params)["students"], round_list(read_yaml(layout.rounds))
    models = [layout.round(student, item["id"]).model for student in students for item in rounds]
    return [tree_digest(model) for model in models if model.is_dir()]


def _line(row: Row) -> list[str]:
    return [row["command"], f"{row['seconds']:.0f}", f"{row['seconds_of_processor']:.0f}", f"{row['own_share']:.0%}"]


if __name__ == "__main__":
    main()
