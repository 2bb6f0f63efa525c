"""All of params.yaml at once: every section parsed, and what one section asks of another checked.

The first stage runs this, so that a mistake in a parameter of the last stage is told in seconds.
"""

from pathlib import Path
from typing import Any

from pipeline.checkpoints.pretrained import TeacherParams
from pipeline.checkpoints.student import StudentParams
from pipeline.core.sampling import Sampling, comparable_temperature
from pipeline.evaluation.completions import EvaluationParams
from pipeline.losses import objective
from pipeline.losses.objective import ObjectiveParams
from pipeline.metrics.rewards import weighted_reward
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.config import parse, section
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import read_yaml
from pipeline.scoring.score import ScoringParams
from pipeline.store.codecs import CODECS
from pipeline.tasks import find_task
from pipeline.tasks.prompts import PromptParams
from pipeline.tasks.templates import check_template
from pipeline.training.batches import BatchParams
from pipeline.training.loop import OptimizerParams
from pipeline.training.mixing import ReplayParams, fraction_at
from pipeline.training.sft import SftParams
from pipeline.workspace.schedule import ScheduleParams

SECTIONS: dict[str, Any] = {
    "seed": int,
    "schedule": ScheduleParams,
    "task": PromptParams,
    "teacher": TeacherParams,
    "students": tuple[str, ...],
    "student": dict[str, StudentParams],
    "sft": dict[str, SftParams],
    "corpus": CorpusParams,
    "rollout": RolloutParams,
    "reward": dict[str, float],
    "scoring": ScoringParams,
    "objective": ObjectiveParams,
    "batches": BatchParams,
    "replay": ReplayParams,
    "optimizer": OptimizerParams,
    "evaluation": EvaluationParams,
}
_TAKEN = ("base", "corpus", "costs", "evaluations", "prompts", "teacher")  # directories of work/ beside the students'


def check_params(path: Path) -> None:
    """A ParameterError for the first mistake in params.yaml."""
    document = read_yaml(path)
    for key in document:
        if key not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise ParameterError(
                key, expected=f"one of: {known}", got="an unknown section", remedy="remove or rename it"
            )
    parsed = {name: section(path, kind, name) for name, kind in SECTIONS.items()}
    _check_task(parsed["task"])
    _check_students(parsed["students"], parsed["student"])
    _check_scoring(parsed["scoring"])
    _check_corpus(parsed["corpus"], parsed["batches"], parsed["schedule"].total_steps)
    _check_rollouts(parsed["rollout"], parsed["batches"])
    _check_decay(parsed["optimizer"], parsed["schedule"].total_steps, "schedule.total_steps", where="optimizer")
    _check_sft(parsed["sft"], parsed["student"])
    objective.check(parsed["objective"])
    _check_reward(parsed["reward"], parsed["objective"].alpha, parsed["rollout"], parsed["batches"])
    _check_support(parsed["objective"], parsed["rollout"].sampling, parsed["scoring"])
    objective.temperature_column(parsed["objective"], parsed["scoring"].truncation.temperatures)


def _check_task(p: PromptParams) -> None:
    task = find_task(p.name)
    parse(task.settings, p.settings, where="task.settings")
    check_template(p.template, task.fields)


def _check_support(p: ObjectiveParams, sampling: Sampling, scoring: ScoringParams) -> None:
    """What the objective's support asks of those who write rollouts and scores."""
    support = objective.tail_estimator_of(p)
    where, remedy = (
        f"rollout.sampling with objective.tail_estimator: {support}",
        "change it, or set objective.tail_estimator: bucket",
    )
    got = f"temperature {sampling.temperature}, top_p {sampling.top_p}"
    if support in ("residual", "sampled") and (sampling.temperature, sampling.top_p) != (1, 1):
        wanted = "temperature 1 and top_p 1, at which any token can be drawn"
        raise ParameterError(where, expected=wanted, got=got, remedy=remedy)
    if support == "tail_mean" and comparable_temperature(sampling) is None:
        wanted = "top_p 1 and a temperature above 0, of which the staleness can be told"
        raise ParameterError(where, expected=wanted, got=got, remedy=remedy)
    if support == "tail_mean" and sampling.record_tail_samples == 0:
        raise ParameterError(where, expected="record_tail_samples of at least 1", got=0, remedy=remedy)
    estimated = CODECS[scoring.codec].bounds.draws_estimated
    if support == "tail_samples" and estimated and (p.divergence.name != "forward_kl" or p.temperature != 1):
        raise ParameterError(
            f"objective.tail_estimator with scoring.codec: {scoring.codec}",
            expected="draws for forward_kl at temperature 1 only: their probabilities are estimates",
            got=f"{p.divergence.name} at temperature {p.temperature}",
            remedy="set scoring.codec: sqrt8, which scores again, or objective.tail_estimator: bucket",
        )


def _check_students(names: tuple[str, ...], described: dict[str, StudentParams]) -> None:
    for name in names:
        if not name.isidentifier() or name in _TAKEN:
            raise ParameterError(
                "students",
                expected=f"names of letters, digits and _ other than {', '.join(_TAKEN)}",
                got=repr(name),
                remedy="rename it",
            )
        if name not in described:
            known = ", ".join(described)
            raise ParameterError(
                "students", expected=f"names out of: {known}", got=repr(name), remedy="add it to student"
            )


def _check_corpus(corpus: CorpusParams, mix: BatchParams, total_steps: int) -> None:
    """Peers do not count: the first round has none."""
    weights, some = mix.corpus_weights, (corpus.references, corpus.generations)
    there = sum(some) if weights is None else weights.dataset * some[0] + weights.teacher * some[1]
    if not there and any(fraction_at(mix.student_fraction, step) < 1 for step in (0, total_steps - 1)):
        raise ParameterError(
            "batches.student_fraction",
            expected="1 without a corpus",
            got=mix.student_fraction,
            remedy="raise it, or corpus.references or corpus.generations and their weights",
        )


def _check_reward(weights: dict[str, float], alpha: float, rollout: RolloutParams, mix: BatchParams) -> None:
    """Every function is there; and with alpha below 1 each student's rollout has a reward, an advantage and a ratio."""
    weighted_reward(weights)
    if alpha == 1:
        return
    needs: list[tuple[bool, str, object, object, str]] = [
        (bool(weights), "reward", "a function", "none", "name one"),
        (mix.student_fraction != 0, "batches.student_fraction", "above 0", mix.student_fraction, "raise it"),
        (
            rollout.samples_per_prompt > 1,
            "rollout.samples_per_prompt",
            "at least 2, since a reward counts over the others of its prompt,",
            rollout.samples_per_prompt,
            "raise it",
        ),
        (
            (rollout.sampling.temperature, rollout.sampling.top_p) == (1, 1),
            "rollout.sampling",
            "temperature 1 and top_p 1, of which the ratio to the student is defined,",
            f"{rollout.sampling.temperature} and {rollout.sampling.top_p}",
            "set both to 1",
        ),
    ]
    for met, where, expected, got, remedy in needs:
        if not met:
            raise ParameterError(
                where, expected=f"{expected} with objective.alpha {alpha}", got=got, remedy=f"{remedy}, or alpha to 1"
            )


def _check_rollouts(p: RolloutParams, mix: BatchParams) -> None:
    if mix.student_fraction != 0 and p.prompts == 0:
        raise ParameterError(
            "batches.student_fraction",
            expected="0 without rollouts",
            got=mix.student_fraction,
            remedy="raise rollout.prompts",
        )


def _check_sft(tuned: dict[str, SftParams], described: dict[str, StudentParams]) -> None:
    for name, p in tuned.items():
        if name != "teacher" and name not in described:
            known = ", ".join(["teacher", *described])
            raise ParameterError("sft", expected=f"names out of: {known}", got=repr(name), remedy="rename it")
        _check_decay(p.optimizer, p.steps, f"sft.{name}.steps", where=f"sft.{name}.optimizer")


def _check_decay(p: OptimizerParams, steps: int, name: str, *, where: str) -> None:
    if p.lr_scheduler_type != "constant_with_warmup" and steps > p.decay_steps:
        raise ParameterError(
            f"{where}.decay_steps",
            expected=f"at least {name} ({steps}) with {p.lr_scheduler_type}, which ends in 0",
            got=p.decay_steps,
            remedy="raise it, which trains the earlier rounds again, or take constant_with_warmup",
        )


def _check_scoring(p: ScoringParams) -> None:
    if p.codec not in CODECS:
        known = ", ".join(CODECS)
        raise ParameterError("scoring.codec", expected=f"one of: {known}", got=repr(p.codec), remedy="mend params.yaml")
    if p.truncation.temperatures[:1] != (1.0,):
        raise ParameterError(
            "scoring.truncation.temperatures",
            expected="a list that starts with 1.0",
            got=list(p.truncation.temperatures),
            remedy="put 1.0 first",
        )
