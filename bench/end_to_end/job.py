"""A job in a folder of its own: the pipeline's stages, run in this process on another checkout's teacher and prompts.

The stages are those of dvc.yaml, called in their order with its options; what they read and write, the store included,
lies in the folder. DVC and the start of a process for each stage are missing (about ten seconds a stage on two slow
cores; docs/decisions.md), so seconds told here are those of the work: loading models, hashing inputs, checkpoints and
all. Where a peak of memory is wanted each stage has its process (`apart`), as with DVC, and the clock starts when that
has imported what it needs. Not taken: `dvc repro` in a copy, whose seconds are mostly those of starting Python.
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
from bench.subprocess_run import measured_apart, peak_bytes, words
from pipeline.models.tokenizer import load_tokenizer
from pipeline.report.jobs import round_list
from pipeline.runtime.config import parse
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import COSTS, PARAMS, TEACHER
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ScheduleParams, rounds_document
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
    """By one stage."""

    stage: str
    seconds: float
    seconds_of_processor: float
    tokens: int  # as the stage counts them: sampled, read by the teacher, read by the student
    peak_mb: float  # resident memory of the process so far


Run: TypeAlias = Callable[..., Spent]  # of a stage's name, its entry in work/costs and its options


@contextlib.contextmanager
def job(folder: Path, changes: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Stand in `folder`, with the teacher and the prompts of the directory left and its params.yaml, changed; gives the
    rounds. What the stages print goes to stderr."""
    home, document = Path.cwd(), merged(read_yaml(PARAMS), changes)
    (folder / "work").mkdir(parents=True)
    for name in ("teacher", "prompts"):
        (folder / "work" / name).symlink_to(home / "work" / name)
    write_yaml(folder / PARAMS, document, comment="Of a benchmark.")
    known = os.environ.get("STILLROOM_STORE")
    os.environ["STILLROOM_STORE"] = str(folder / "store")
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(sys.stderr):
            schedule = parse(ScheduleParams, document["schedule"], where="schedule")
            yield round_list(rounds_document(schedule, document["students"], []))
    finally:
        del os.environ["STILLROOM_STORE"]
        if known is not None:
            os.environ["STILLROOM_STORE"] = known


def merged(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the changes in their places; whatever is no mapping is replaced."""
    found = dict(document)
    for key, value in changes.items():
        within = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if within else value
    return found


def here(stage: str, entry: str, /, **options: object) -> Spent:
    """A stage in this process."""
    began = now()
    run_stage(stage, **options)
    spent = since(began)
    gc.collect()  # a process of its own would leave nothing, and takes no time for it
    return Spent(stage=stage, **spent, tokens=read_json(COSTS / f"{entry}.json")["tokens"], peak_mb=peak_bytes() / 1e6)


def apart(stage: str, entry: str, /, **options: object) -> Spent:
    """A stage in a process of its own."""
    return Spent(**measured_apart("bench.end_to_end.job", stage, entry=entry, **options))


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", required=True)
@click.option("--entry", required=True)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(only: str, entry: str, options: tuple[str, ...]) -> None:
    """One stage, off the clock what libraries import when they are first asked for something."""
    load_tokenizer(TEACHER)
    _ = transformers.AutoModelForCausalLM, transformers.get_scheduler, pa.array([""])
    given = {key.removeprefix("--"): value for key, value in zip(options[::2], options[1::2], strict=True)}
    with contextlib.redirect_stdout(sys.stderr):
        spent = here(only, entry, **given)
    click.echo(json.dumps(asdict(spent)))


def make_corpus(run: Run = here) -> list[Spent]:
    """Written, and scored."""
    return [run("generate", "generate"), _score(Path("work/corpus"), "corpus", run)]


def begin(student: str, run: Run = here) -> Spent:
    """The student's first checkpoint."""
    return run("init", f"{student}-init", student=student, to="init")


def go_round(student: str, one: Mapping[str, Any], run: Run = here) -> list[Spent]:
    """One round of the schedule: rollouts, scores, training."""
    place, name = {"student": student, "round": one["id"], "prev": one["prev"]}, f"{student}-{one['id']}"
    place["first_step"] = one["first_step"]
    return [
        run("rollout", f"{name}-rollout", **place),
        _score(Path(f"work/{student}/{one['id']}"), name, run),
        run("train", f"{name}-train", **place, steps=one["steps"]),
    ]


def _score(place: Path, name: str, run: Run) -> Spent:
    entry = f"{name}-score"
    return run("score", entry, rollouts=place / "rollouts.parquet", out=place / "segment", name=entry)


def run_stage(name: str, /, **options: object) -> None:
    """The command of a stage, in this process and directory."""
    _COMMANDS[name].main(args=words(**options), prog_name=name, standalone_mode=False)


def seconds_of(spent: list[Spent], stage: str | None = None, *, clock: str = "seconds") -> float:
    """Of one kind of stage, or of all; `clock` is one of `bench.clock`."""
    found: float = sum(getattr(one, clock) for one in spent if stage in (None, one.stage))
    return found


def tokens_of(spent: list[Spent], stage: str) -> int:
    """Of one kind of stage."""
    return sum(one.tokens for one in spent if one.stage == stage)


if __name__ == "__main__":
    main()
