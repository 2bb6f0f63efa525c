"""The files and parameters behind `stillroom store forecast`."""

from pathlib import Path

from pipeline.fingerprint import model_fingerprint
from pipeline.forecast import Grounds, Need, Work, find_scorer, forecast, store_sizes, teacher_rate
from pipeline.params import lookup, read_yaml, section
from pipeline.rollouts import CorpusParams, RolloutParams
from pipeline.schedule import ScheduleParams, check_rounds
from pipeline.scoring import ScoringParams
from pipeline.tables import read_json
from pipeline.upkeep import readable
from stages.command import COSTS, PARAMS, PROMPTS, TEACHER, store_root
from stages.inputs import read_prompts, read_rollouts

_ROUNDS = Path("rounds.yaml")


def needs() -> list[Need]:
    """What the corpus and every round of every student still ask of the teacher; damaged segments count for nothing."""
    check_rounds(
        _ROUNDS, section(PARAMS, ScheduleParams, "schedule"), lookup(PARAMS, "students"), lookup(PARAMS, "sft")
    )
    paths, scorer, scoring = readable(store_root()), None, section(PARAMS, ScoringParams, "scoring")
    if TEACHER.is_dir():
        scorer = find_scorer(paths, model_fingerprint(TEACHER), scoring)
    grounds = Grounds(
        prompts=read_prompts(PROMPTS, "train") if PROMPTS.is_file() else [],
        max_prompt_tokens=lookup(PARAMS, "task", "max_prompt_tokens"),
        corpus=section(PARAMS, CorpusParams, "corpus"),
        rollout=section(PARAMS, RolloutParams, "rollout"),
        publish_every=scoring.publish_every,
        store=store_root(),
        scorer=scorer,
        sizes=store_sizes(paths, scorer),
        seconds_rate=teacher_rate({one.stem: read_json(one) for one in COSTS.glob("*.json")}),
    )
    return forecast(works(), grounds)


def works() -> list[Work]:
    """The score stages of the schedule, the corpus first."""
    rounds = [one["id"] for one in read_yaml(_ROUNDS)["rounds"]]
    students = lookup(PARAMS, "students")
    return [
        _work("corpus", None, Path("work/corpus")),
        *(_work(f"{student} {id_}", student, Path("work") / student / id_) for student in students for id_ in rounds),
    ]


def _work(name: str, student: str | None, directory: Path) -> Work:
    path = directory / "rollouts.parquet"
    return Work(name=name, student=student, rollouts=read_rollouts(path) if path.is_file() else None)
