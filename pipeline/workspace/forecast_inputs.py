"""Read the files and parameters behind `stillroom store forecast`, and score a sample for it."""

import sys
from contextlib import redirect_stdout

from pipeline.core.files import prompts_file, read_prompts, read_rollouts
from pipeline.core.hashing import model_fingerprint
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, RolloutFiles, round_list, store_root
from pipeline.runtime.yaml_files import read_yaml
from pipeline.scoring.score import ScoringParams
from pipeline.store.keys import unknown
from pipeline.store_admin.integrity import readable
from pipeline.workspace.forecast import ForecastInputs, ScoreStage, ScoringEstimate, find_scorer, forecast, store_sizes
from pipeline.workspace.schedule import check_rounds, read_schedule


def forecast_schedule() -> list[ScoringEstimate]:
    """Return what the fixed corpus and every round of every student still take; damaged segments do not count.

    Raises:
        UserError: A file of the project cannot be read, or rounds.yaml does not match params.yaml.
    """
    params = LAYOUT.params
    check_rounds(LAYOUT.rounds, *read_schedule(params))
    paths, scorer, scoring = readable(store_root()), None, section(params, ScoringParams, "scoring")
    if LAYOUT.teacher.is_dir():
        scorer = find_scorer(paths, model_fingerprint(LAYOUT.teacher), scoring)
    inputs = ForecastInputs(
        prompts=read_prompts(LAYOUT.prompts, "train") if prompts_file(LAYOUT.prompts, "train").is_file() else [],
        train=lookup(params, "task", "train"),
        max_prompt_tokens=lookup(params, "task", "max_prompt_tokens"),
        corpus=section(params, CorpusParams, "corpus"),
        rollout=section(params, RolloutParams, "rollout"),
        flush_every=scoring.flush_every,
        store=store_root(),
        scorer=scorer,
        sizes=store_sizes(paths, scorer),
        costs={path.stem: read_json(path) for path in LAYOUT.costs.glob("*.json")},
    )
    return forecast(_score_stages(), inputs)


def _score_stages() -> list[ScoreStage]:
    """Return the score stages of the schedule, the fixed corpus first."""
    rounds = [item["id"] for item in round_list(read_yaml(LAYOUT.rounds))]
    return [_score_stage("corpus", None, LAYOUT.corpus)] + [
        _score_stage(f"{student} {id_}", student, LAYOUT.round(student, id_))
        for student in lookup(LAYOUT.params, "students")
        for id_ in rounds
    ]


def _score_stage(name: str, student: str | None, files: RolloutFiles) -> ScoreStage:
    rollouts = read_rollouts(files.rollouts) if files.rollouts.is_file() else None
    return ScoreStage(name=name, student=student, rollouts=rollouts)


def score_sample(count: int) -> None:
    """Have work/teacher score this many sequences of each rollouts file, spread over its prompts.

    The store keeps the scores, so that the score stages find them. Sequences that the store has already count, too.

    Raises:
        UserError: A file of the project cannot be read.
    """
    from pipeline.scoring.teacher import CachedTeacher  # imports torch

    written = {stage.name: stage.rollouts for stage in _score_stages() if stage.rollouts}
    if not written:
        return
    teacher = CachedTeacher.open(section(LAYOUT.params, ScoringParams, "scoring"))
    for name, rollouts in written.items():
        scored = {place.key for place in teacher.find(rollouts)}
        missing = unknown(rollouts, scored)  # in the order of prompts
        size = min(count - len(scored), len(missing))
        sample = [missing[index * len(missing) // size] for index in range(size)]
        if sample:
            with redirect_stdout(sys.stderr):
                teacher.score(sample, {}, title=f"sample of {name}")
