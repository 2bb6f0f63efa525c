"""Make the projects that the questions compare methods on: teacher, prompts, scored corpus, the teacher's evaluation.

* Methods run on a project. Their learning rates are chosen on a second one, NAME-validation, which has the second half
  of the held-out prompts and everything else of the first.
* `stories` stores all but a mass of 0.00014 per position, `truncated` what the default job stores. Variants of
  `truncated` record less of own completions, or estimate the tail otherwise.
* A teacher of arithmetic may be tuned on answers that begin with a mistake too (`mistakes`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.end_to_end.job import make_corpus, run_stage
from bench.end_to_end.methods import SHARED, prepare
from bench.evidence.mistakes import add_mistakes
from bench.evidence.places import Changes, inside, project, validation
from pipeline.core.files import prompts_file, read_prompts
from pipeline.runtime.files import write_rows
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.schedule import ROUNDS
from schemas.prompt import PROMPT


def make_project(name: str, params: str, *, mistakes: int) -> None:
    """Make a project, and another one for the learning rates with the second half of its held-out prompts.

    Args:
        name: The project.
        params: The content of params.yaml.
        mistakes: The beginnings of answers with a mistake, per training prompt, that a tuned teacher learns from.
    """
    home, other = project(name), project(validation(name))
    prepare(home, params, home, ())
    with inside(home):
        _make_teacher(mistakes)
        make_corpus()
    prepare(other, params, home.resolve(), ("teacher", "corpus", "prompts/train.parquet", "prompts/ranks.npy"))
    prompts = read_prompts(home / "work/prompts", "heldout")
    half = len(prompts) // 2
    for folder, of_half in ((home, prompts[:half]), (other, prompts[half:])):
        write_rows(prompts_file(folder / "work/prompts", "heldout"), of_half, PROMPT)
        with inside(folder):
            run_stage("evaluate", name="teacher", model=LAYOUT.teacher)


def _make_teacher(mistakes: int) -> None:
    """Make teacher and prompts, and tune the teacher where the parameters ask for it."""
    document = read_yaml(ROUNDS)
    run_stage("teacher", out=document["teacher_dir"])
    run_stage("prepare", teacher=document["teacher_dir"])
    if tuned := document["tuned"].get("teacher"):
        prompts = read_prompts(LAYOUT.prompts, "train")
        begun = add_mistakes(Path(), prompts, Path(tuned["base"]), mistakes)
        write_rows(prompts_file(LAYOUT.prompts, "train"), begun, PROMPT)
        run_stage("sft", name="teacher", model=tuned["base"], out=tuned["out"], log=LAYOUT.round("teacher", "sft").log)
        write_rows(prompts_file(LAYOUT.prompts, "train"), prompts, PROMPT)


def make_truncated(default: Path) -> None:
    """Make the project `truncated`, which has the scores that the default job would store."""
    stories, home = project("stories"), project("truncated")
    usual = read_yaml(default)
    changes: Changes = {("scoring", "truncation"): usual["scoring"]["truncation"]}
    for key in ("record_threshold", "record_max", "record_tail_samples"):
        changes[("rollout", "sampling", key)] = usual["rollout"]["sampling"][key]
    changes[("objective", "tail_estimator")] = usual["objective"]["tail_estimator"]
    params = edit_yaml(stories / "params.yaml", changes)
    prepare(home, params, stories.resolve(), ("teacher", "prompts", "corpus/rollouts.parquet", "evaluations"))
    with inside(home):
        run_stage("score", rollouts=LAYOUT.corpus.rollouts, out=LAYOUT.corpus.segment, name="corpus-score")


def make_variant(name: str, changes: Mapping[str, Any]) -> None:
    """Make a project with the corpus of `truncated` and other parameters, by their dotted keys."""
    origin = project("truncated")
    of_paths: Changes = {tuple(key.split(".")): value for key, value in changes.items()}
    prepare(project(name), edit_yaml(origin / "params.yaml", of_paths), origin.resolve(), SHARED)
