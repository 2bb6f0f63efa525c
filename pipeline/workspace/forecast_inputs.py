"""The files and parameters behind `stillroom store forecast`."""

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.core.hashing import model_fingerprint
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, RolloutFiles, store_root
from pipeline.runtime.rounds import round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.scoring.score import ScoringParams
from pipeline.store_admin.integrity import readable
from pipeline.workspace.forecast import (
    ForecastInputs,
    ScoreStage,
    ScoringEstimate,
    find_scorer,
    forecast,
    store_sizes,
    teacher_rate,
)
from pipeline.workspace.schedule import ScheduleParams, check_rounds


def needs() -> list[ScoringEstimate]:
    """What the corpus and every round of every student still ask of the teacher; damaged segments count for nothing."""
    check_rounds(
        LAYOUT.rounds,
        section(LAYOUT.params, ScheduleParams, "schedule"),
        lookup(LAYOUT.params, "students"),
        lookup(LAYOUT.params, "sft"),
    )
    paths, scorer, scoring = readable(store_root()), None, section(LAYOUT.params, ScoringParams, "scoring")
    if LAYOUT.teacher.is_dir():
        scorer = find_scorer(paths, model_fingerprint(LAYOUT.teacher), scoring)
    grounds = ForecastInputs(
        prompts=read_prompts(LAYOUT.prompts, "train") if LAYOUT.prompts.is_file() else [],
        max_prompt_tokens=lookup(LAYOUT.params, "task", "max_prompt_tokens"),
        corpus=section(LAYOUT.params, CorpusParams, "corpus"),
        rollout=section(LAYOUT.params, RolloutParams, "rollout"),
        flush_every=scoring.flush_every,
        store=store_root(),
        scorer=scorer,
        sizes=store_sizes(paths, scorer),
        seconds_rate=teacher_rate({one.stem: read_json(one) for one in LAYOUT.costs.glob("*.json")}),
    )
    return forecast(works(), grounds)


def works() -> list[ScoreStage]:
    """The score stages of the schedule, the corpus first."""
    rounds = [one["id"] for one in round_list(read_yaml(LAYOUT.rounds))]
    students = lookup(LAYOUT.params, "students")
    return [
        _work("corpus", None, LAYOUT.corpus),
        *(_work(f"{student} {id_}", student, LAYOUT.round(student, id_)) for student in students for id_ in rounds),
    ]


def _work(name: str, student: str | None, files: RolloutFiles) -> ScoreStage:
    path = files.rollouts
    return ScoreStage(name=name, student=student, rollouts=read_rollouts(path) if path.is_file() else None)
