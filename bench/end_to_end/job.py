"""Run the stages of a job in a folder of its own, on the teacher and the prompts of another checkout.

The stages are those of dvc.yaml, called in this process, in the order of dvc.yaml and with the same options. Everything
that they read and write is in the folder, the store included.

- Times contain loading models, hashing inputs and checkpoints. They do not contain DVC and the start of a process per
  stage (`python -m bench.end_to_end.overhead`).
- Where a peak of memory is needed, each stage runs in a subprocess (`run_stage_in_subprocess`), as with DVC. The clock
  starts when that process has imported what it needs.
"""

import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import pyarrow as pa
import transformers

from bench.clock import now, since
from bench.subprocess_run import option_words, peak_bytes, run_in_subprocess
from pipeline.models.tokenizer import load_tokenizer
from pipeline.runtime.config import parse
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, Layout, RolloutFiles, round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ScheduleParams, rounds_document
from pipeline.workspace.students import write_students
from stages import evaluate, generate, init, prepare, rollout, score, sft, teacher, train

_COMMANDS: dict[str, click.Command] = {
    "teacher": teacher.main,
    "prepare": prepare.main,
    "init": init.main,
    "evaluate": evaluate.main,
    "generate": generate.main,
    "rollout": rollout.main,
    "score": score.main,
    "sft": sft.main,
    "train": train.main,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The time, tokens and memory of one stage."""

    stage: str
    seconds: float
    seconds_of_processor: float
    tokens: int  # as the stage counts them: sampled, read by the teacher, read by the student
    peak_mb: float  # resident memory of the process so far


Run: TypeAlias = Callable[..., Spent]  # of a stage's name, its entry in work/costs and its options


@contextlib.contextmanager
def job(folder: Path, changes: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Make `folder` the current directory, with the teacher and prompts of the previous one; yield the rounds.

    The parameters are those of the previous directory with `changes`. Stages print to stderr.
    """
    home, document = Path.cwd(), merged(read_yaml(LAYOUT.params), changes)
    work = Layout(folder).work
    work.mkdir(parents=True)
    for name in ("teacher", "prompts"):
        (work / name).symlink_to(Layout(home).work / name)
    write_yaml(Layout(folder).params, document, comment="Of a benchmark.")
    write_students(Layout(folder))
    store_before = os.environ.get("STILLROOM_STORE")
    os.environ["STILLROOM_STORE"] = str(folder / "store")
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
            schedule = parse(ScheduleParams, document["schedule"], where="schedule")
            yield round_list(rounds_document(schedule, document["students"], []))
    finally:
        del os.environ["STILLROOM_STORE"]
        if store_before is not None:
            os.environ["STILLROOM_STORE"] = store_before


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with the changes; nested mappings are merged, and every other value is replaced."""
    result = dict(document)
    for key, value in changes.items():
        within = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if within else value
    return result


def run_stage_here(stage: str, entry: str, /, **options: object) -> Spent:
    """Run a stage in this process and return what it took."""
    began = now()
    run_stage(stage, **options)
    spent = since(began)
    gc.collect()  # off the clock: a process of its own would leave nothing behind
    return Spent(stage=stage, **spent, tokens=read_json(LAYOUT.cost(entry))["tokens"], peak_mb=peak_bytes() / 1e6)


def run_stage_in_subprocess(stage: str, entry: str, /, **options: object) -> Spent:
    """Run a stage in a subprocess and return what it took."""
    return Spent(**run_in_subprocess("bench.end_to_end.job", stage, entry=entry, **options))


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", required=True)
@click.option("--entry", required=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(only: str, entry: str, options: tuple[str, ...]) -> None:
    """Run one stage; the imports that libraries delay until their first use are off the clock."""
    load_tokenizer(LAYOUT.teacher)
    _ = transformers.AutoModelForCausalLM, transformers.get_scheduler, pa.array([""])
    values = {key.removeprefix("--"): value for key, value in zip(options[::2], options[1::2], strict=True)}
    with contextlib.redirect_stdout(sys.stderr):
        spent = run_stage_here(only, entry, **values)
    click.echo(json.dumps(asdict(spent)))


def make_corpus(run: Run = run_stage_here) -> list[Spent]:
    """Write the fixed corpus and score it."""
    return [run("generate", "generate"), _score(LAYOUT.corpus, "corpus", run)]


def initialise_student(student: str, run: Run = run_stage_here) -> Spent:
    """Make the student's initial checkpoint."""
    return run("init", f"{student}-init", student=student, to="init")


def run_round(student: str, item: Mapping[str, Any], run: Run = run_stage_here) -> list[Spent]:
    """Run one round of the schedule: rollouts, scores and training."""
    name = f"{student}-{item['id']}"
    options = {"student": student, "round": item["id"], "prev": item["prev"], "first_step": item["first_step"]}
    options["gate"] = LAYOUT.plan  # which is not there: a schedule of a benchmark never ends early
    return [
        run("rollout", f"{name}-rollout", **options),
        _score(LAYOUT.round(student, item["id"]), name, run),
        run("train", f"{name}-train", **options, steps=item["steps"]),
    ]


def _score(files: RolloutFiles, name: str, run: Run) -> Spent:
    entry = f"{name}-score"
    return run("score", entry, rollouts=files.rollouts, out=files.segment, name=entry)


def run_stage(name: str, /, **options: object) -> None:
    """Run the command of a stage in this process and directory."""
    _COMMANDS[name].main(args=option_words(**options), prog_name=name, standalone_mode=False)


def seconds_of(spent: list[Spent], stage: str | None = None, *, clock: str = "seconds") -> float:
    """Return the seconds of one kind of stage, or of all stages, by one of the clocks of `bench.clock`."""
    seconds: float = sum(getattr(entry, clock) for entry in spent if stage in (None, entry.stage))
    return seconds


def tokens_of(spent: list[Spent], stage: str) -> int:
    """Return the tokens of one kind of stage."""
    return sum(entry.tokens for entry in spent if entry.stage == stage)


if __name__ == "__main__":
    main()
