"""Make the projects, the starts and the runs that the questions compare.

* A project has the teacher, the prompts, the scored corpus and the teacher's evaluation, which its runs share. `exact`
  stores all but a mass of 0.00014 per position, `truncated` what the default job stores, and `validation` is `exact`
  with other held-out prompts, on which learning rates are chosen.
* A start is a student after so many off-policy steps that more of them change nothing. Its seed sets the order of
  batches. A run begins with a start and trains with a method: DATA-DIVERGENCE, such as off-forward_kl or on-jsd-0.5.
* Guarantee: the row of a run that exists with equal parameters is returned, so an interrupted unit loses one run.
* `nats_per_byte` is the judge's negative log-likelihood of what the student sampled at temperature 1, and
  `nats_per_byte_greedy` of its greedy completions.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from bench.clock import now, since
from bench.end_to_end.job import make_corpus, run_stage
from bench.end_to_end.methods import DONE, SHARED, distil, link, make_start, prepare
from bench.evidence.stories import Judge
from bench.output import Row
from pipeline.core.files import prompts_file, read_prompts
from pipeline.runtime.config import AboveZero, Positive
from pipeline.runtime.files import read_json, read_rows, write_json, write_rows
from pipeline.runtime.layout import LAYOUT, Layout, round_list
from pipeline.runtime.yaml_files import edit_yaml, overlay_yaml, read_yaml
from pipeline.workspace.schedule import ROUNDS, follow_params
from pipeline.workspace.students import write_students
from schemas.comparison import COMPARISON
from schemas.prompt import PROMPT

WORK = Path("work")
STORIES, JUDGE, TEACHER = WORK / "stories", WORK / "judge", WORK / "teacher"
STUDENT, ROW = "small", "row.json"
_FRACTIONS = {"off": 0.0, "mixed": 0.5, "on": 1.0}  # of the student's own completions (GKD's lambda)
_BEGIN = "<s>"  # the token in front of a story, which ends the story before it too

Changes = dict[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartParams:
    """The section `start` of bench/evidence/params.yaml: the training before the comparison."""

    steps: Positive
    learning_rate: AboveZero


def project(name: str) -> Path:
    """Return the directory of a project."""
    return WORK / "projects" / name


def make_project(preset: Path, default: Path) -> None:
    """Make the project `exact`, and `validation` with the second half of its held-out prompts."""
    exact, validation = project("exact"), project("validation")
    _new(exact, overlay_yaml(default, preset))
    with _inside(exact):
        run_stage("teacher", out=LAYOUT.teacher)
        run_stage("prepare", teacher=LAYOUT.teacher)
        make_corpus()
    _new(validation, (exact / "params.yaml").read_text(encoding="utf-8"))
    for name in ("teacher", "corpus", "prompts/train.parquet", "prompts/ranks.npy"):
        link(validation / "work" / name, (exact / "work" / name).resolve())
    prompts = read_prompts(exact / "work/prompts", "heldout")
    half = len(prompts) // 2
    for home, part in ((exact, prompts[:half]), (validation, prompts[half:])):
        write_rows(prompts_file(home / "work/prompts", "heldout"), part, PROMPT)
        with _inside(home):
            run_stage("evaluate", name="teacher", model=LAYOUT.teacher)


def make_truncated(default: Path) -> None:
    """Make the project `truncated`, which has the scores that the default job would store."""
    exact, home = project("exact"), project("truncated")
    usual = read_yaml(default)
    changes: Changes = {("scoring", "truncation"): usual["scoring"]["truncation"]}
    for key in ("record_threshold", "record_max", "record_tail_samples"):
        changes[("rollout", "sampling", key)] = usual["rollout"]["sampling"][key]
    changes[("objective", "tail_estimator")] = usual["objective"]["tail_estimator"]
    _new(home, edit_yaml(exact / "params.yaml", changes))
    for part in ("teacher", "prompts", "corpus/rollouts.parquet", "evaluations"):
        link(home / "work" / part, (exact / "work" / part).resolve())
    with _inside(home):
        run_stage("score", rollouts=LAYOUT.corpus.rollouts, out=LAYOUT.corpus.segment, name="corpus-score")


def _new(home: Path, params: str) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    Layout(home).params.write_text(params, encoding="utf-8")
    with chdir(home):
        follow_params()
    write_students(Layout(home))


@contextmanager
def _inside(home: Path) -> Iterator[None]:
    """Change into a project or a run, whose store is there too, and send what the stages print to stderr."""
    with chdir(home), redirect_stdout(sys.stderr):
        yield


def method_changes(method: str, rate: float, document: Mapping[str, Any], schedule: Mapping[str, int]) -> Changes:
    """Return what a method changes in the parameters of a project.

    Args:
        method: The data and the divergence.
        rate: The learning rate.
        document: The parameters of the project.
        schedule: What differs from them: `steps`, `refresh` (steps between new completions), and `uses`, the number of
            times that each completion is trained on, which is 1 where it is not there.
    """
    data, _, divergence = method.partition("-")
    name, _, beta = divergence.partition("-")
    steps = schedule.get("steps", document["schedule"]["total_steps"])
    refresh = schedule.get("refresh", document["schedule"]["refresh_every"]) if _FRACTIONS[data] else steps
    completions = ceil(_FRACTIONS[data] * refresh * document["batches"]["batch_size"] / schedule.get("uses", 1))
    samples = max(1, ceil(completions / document["task"]["train"]))
    changes: Changes = {
        ("schedule", "total_steps"): steps,
        ("schedule", "refresh_every"): refresh,
        ("rollout", "prompts"): ceil(completions / samples),
        ("rollout", "samples_per_prompt"): samples,
        ("batches", "student_fraction"): _FRACTIONS[data],
        ("objective", "divergence", "name"): name,
        ("optimizer", "learning_rate"): rate,
        ("optimizer", "decay_steps"): steps,
    }
    return changes | ({("objective", "divergence", "beta"): float(beta)} if beta else {})


def _params(name: str, method: str, rate: float, seed: int, **schedule: int) -> str:
    path = Layout(project(name)).params
    return edit_yaml(path, {("seed",): seed} | method_changes(method, rate, read_yaml(path), schedule))


def train_start(name: str, seed: int, p: StartParams) -> Path:
    """Return the directory of a start on a project, which is trained unless it is there; its round is r1."""
    home, base = WORK / "starts" / f"{name}-{seed}", project(name)
    params = _params(name, "off-forward_kl", p.learning_rate, seed, steps=p.steps)
    if prepare(home, params, base.resolve(), SHARED):
        with _inside(home):
            make_start(STUDENT)
            distil(STUDENT)
        (home / DONE).touch()
    return home


def run_method(name: str, method: str, rate: float, seed: int, start: Path, **schedule: int) -> Row:
    """Return the row of a method on a project, from a start, with a learning rate and a schedule."""
    parts = (name, method, f"{rate:g}", str(seed), *(f"{key}{value}" for key, value in schedule.items()))
    base, home = project(name), WORK / "runs" / "-".join(parts)
    if prepare(home, _params(name, method, rate, seed, **schedule), base.resolve(), SHARED):
        measures = f"work/evaluations/prompts/{STUDENT}"
        for part, of_start in (
            (f"work/{STUDENT}/base", f"work/{STUDENT}/base"),
            (f"work/{STUDENT}/init", f"work/{STUDENT}/r1"),
            (f"{measures}-init.parquet", f"{measures}-r1.parquet"),
        ):
            link(home / part, (start / of_start).resolve())
        began = now()
        with _inside(home):
            distil(STUDENT)
        spent = since(began)
        row = {"method": method, "store": name, "rate": rate, "seed": seed} | schedule | measured(home) | spent
        write_json(home / ROW, row)
        for part in ("work", "logs", ".store"):
            shutil.rmtree(home / part, ignore_errors=True)
        (home / DONE).touch()
    return dict(read_json(home / ROW))


def measured(home: Path) -> Row:
    """Return the metrics of the last checkpoint of a run or a start, and the judge's nats per byte."""
    name = f"{STUDENT}-{round_list(read_yaml(home / ROUNDS))[-1]['id']}"
    evaluation = Layout(home).evaluation(name)
    sampled: dict[str, str] = {}
    for row in read_rows(evaluation.with_suffix(".parquet"), COMPARISON):
        sampled[row["prompt_id"]] = sampled.get(row["prompt_id"], "") + row["token"].replace(_BEGIN, "")
    document = read_json(evaluation)
    greedy = {text["prompt_id"]: text["text"] for text in document["texts"]}
    prompts = read_prompts(Layout(home).prompts, "heldout")
    openings = {prompt.prompt_id: prompt.prompt_text.removeprefix(_BEGIN) for prompt in prompts}
    judge = Judge(JUDGE)
    metrics: Row = document["metrics"]
    return metrics | {
        "nats_per_byte": judge.nats_per_byte([(openings[key], text) for key, text in sampled.items()]),
        "nats_per_byte_greedy": judge.nats_per_byte([(openings[key], text) for key, text in greedy.items()]),
    }
