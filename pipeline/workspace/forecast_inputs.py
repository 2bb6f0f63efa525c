"""The files and parameters behind `stillroom store forecast`."""

from pathlib import Path

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.core.hashing import model_fingerprint
from pipeline.report.jobs import round_list
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import COSTS, PARAMS, PROMPTS, TEACHER, store_root
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

_ROUNDS = Path("rounds.yaml")


def needs() -> list[ScoringEstimate]:
    """What the corpus and every round of every student still ask of the teacher; damaged segments count for nothing."""
    check_rounds(
        _ROUNDS, section(PARAMS, ScheduleParams, "schedule"), lookup(PARAMS, "students"), lookup(PARAMS, "sft")
    )
    paths, scorer, scoring = readable(store_root()), None, section(PARAMS, ScoringParams, "scoring")
    if TEACHER.is_dir():
        scorer = find_scorer(paths, model_fingerprint(TEACHER), scoring)
    grounds = ForecastInputs(
        prompts=read_prompts(PROMPTS, "train") if PROMPTS.is_file() else [],
        max_prompt_tokens=lookup(PARAMS, "task", "max_prompt_tokens"),
        corpus=section(PARAMS, CorpusParams, "corpus"),
        rollout=section(PARAMS, RolloutParams, "rollout"),
        flush_every=scoring.flush_every,
        store=store_root(),
        scorer=scorer,
        sizes=store_sizes(paths, scorer),
        seconds_rate=teacher_rate({one.stem: read_json(one) for one in COSTS.glob("*.json")}),
    )
    return forecast(works(), grounds)


def works() -> list[ScoreStage]:
    """The score stages of the schedule, the corpus first."""
    rounds = [one["id"] for one in round_list(read_yaml(_ROUNDS))]
    students = lookup(PARAMS, "students")
    return [
        _work("corpus", None, Path("work/corpus")),
        *(_work(f"{student} {id_}", student, Path("work") / student / id_) for student in students for id_ in rounds),
    ]


def _work(name: str, student: str | None, directory: Path) -> ScoreStage:
    path = directory / "rollouts.parquet"
    return ScoreStage(name=name, student=student, rollouts=read_rollouts(path) if path.is_file() else None)
