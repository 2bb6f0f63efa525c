"""Check all of params.yaml at once: decode every section, and check what one section requires of another.

The first stage runs these checks, so a mistake in a parameter of the last stage is reported within seconds.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.pretrained import TeacherParams
from pipeline.checkpoints.student import StudentParams
from pipeline.core.sampling import comparable_temperature
from pipeline.evaluation.completions import EvaluationParams
from pipeline.losses import objective
from pipeline.losses.objective import ObjectiveParams
from pipeline.metrics.rewards import weighted_reward
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.config import parse
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import read_yaml
from pipeline.scoring.score import ScoringParams
from pipeline.store.codecs import CODECS
from pipeline.tasks import find_task
from pipeline.tasks.prompts import PromptParams
from pipeline.tasks.templates import check_template
from pipeline.training.batches import BatchParams
from pipeline.training.mixing import ReplayParams, fraction_at
from pipeline.training.optimizer import OptimizerParams
from pipeline.training.sft import SftParams
from pipeline.workspace.schedule import ScheduleParams

_RESERVED = ("base", "corpus", "costs", "evaluations", "prompts", "teacher")
"""Names of work/ that are not students."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """All sections of params.yaml."""

    seed: int
    """The seed from which every random draw derives its own."""
    schedule: ScheduleParams
    task: PromptParams
    teacher: TeacherParams
    students: tuple[str, ...]
    """The students to train, out of those in `student`."""
    student: dict[str, StudentParams]
    sft: dict[str, SftParams]
    corpus: CorpusParams
    rollout: RolloutParams
    reward: dict[str, float]
    """The weights of functions whose sum is the reward of a completion: `exact_match`, `rouge_l`, `bleu`, `length` (in
    tokens), `finished`, or `module:function`."""
    scoring: ScoringParams
    objective: ObjectiveParams
    batches: BatchParams
    replay: ReplayParams
    optimizer: OptimizerParams
    evaluation: EvaluationParams


def check_params(path: Path) -> None:
    """Check the file params.yaml.

    Raises:
        ParameterError: The file has a mistake; the message is about one of them.
    """
    p = parse(Parameters, read_yaml(path), where="")
    task = find_task(p.task.name)
    parse(task.settings, p.task.settings, where="task.settings")
    check_template(p.task.template, task.fields)
    _check_students(p)
    _check_scoring(p.scoring)
    _check_sources(p)
    _check_decay(p.optimizer, p.schedule.total_steps, "schedule.total_steps", where="optimizer")
    _check_sft(p)
    objective.check_objective(p.objective)
    _check_reward(p)
    _check_tail_estimator(p)
    objective.temperature_column(p.objective, p.scoring.truncation.temperatures)


def _check_students(p: Parameters) -> None:
    """Check that the names can be parts of paths and of stage names, and that each student is described."""
    for name in p.students:
        if not name.isidentifier() or name in _RESERVED:
            expected = f"names of letters, digits and _ other than {', '.join(_RESERVED)}"
            raise ParameterError("students", expected=expected, got=repr(name), remedy="rename it")
        if name not in p.student:
            expected = f"names out of: {', '.join(p.student)}"
            raise ParameterError("students", expected=expected, got=repr(name), remedy="add it to student")


def _check_scoring(p: ScoringParams) -> None:
    if p.codec not in CODECS:
        expected = f"one of: {', '.join(CODECS)}"
        raise ParameterError("scoring.codec", expected=expected, got=repr(p.codec), remedy="fix params.yaml")
    temperatures = list(p.truncation.temperatures)
    if temperatures[:1] != [1.0]:
        where, expected = "scoring.truncation.temperatures", "a list that starts with 1.0"
        raise ParameterError(where, expected=expected, got=temperatures, remedy="put 1.0 first")


def _check_sources(p: Parameters) -> None:
    """Check that each batch slot can be filled: by the fixed corpus, or by rollouts of the student."""
    fraction, weights, where = p.batches.student_fraction, p.batches.corpus_weights, "batches.student_fraction"
    sequences = (weights.dataset if weights else 1) * p.corpus.references
    sequences += (weights.teacher if weights else 1) * p.corpus.generations
    last_step = p.schedule.total_steps - 1
    if not sequences and min(fraction_at(fraction, 0), fraction_at(fraction, last_step)) < 1:
        remedy = "raise it, or corpus.references or corpus.generations and their weights"
        raise ParameterError(where, expected="1 without a corpus", got=fraction, remedy=remedy)
    if fraction != 0 and p.rollout.prompts == 0:
        raise ParameterError(where, expected="0 without rollouts", got=fraction, remedy="raise rollout.prompts")


def _check_sft(p: Parameters) -> None:
    for name, tuning in p.sft.items():
        if name != "teacher" and name not in p.student:
            expected = f"names out of: {', '.join(['teacher', *p.student])}"
            raise ParameterError("sft", expected=expected, got=repr(name), remedy="rename it")
        _check_decay(tuning.optimizer, tuning.steps, f"sft.{name}.steps", where=f"sft.{name}.optimizer")


def _check_decay(p: OptimizerParams, steps: int, name: str, *, where: str) -> None:
    """Check that the learning rate is above 0 at every step; `name` is the key of the number of steps."""
    if p.lr_scheduler_type != "constant_with_warmup" and steps > p.decay_steps:
        expected = f"at least {name} ({steps}) with {p.lr_scheduler_type}, which ends in 0"
        remedy = "raise it, which trains the earlier rounds again, or take constant_with_warmup"
        raise ParameterError(f"{where}.decay_steps", expected=expected, got=p.decay_steps, remedy=remedy)


def _check_reward(p: Parameters) -> None:
    """Check that the reward functions exist, and that every rollout has an advantage and a ratio where they count."""
    weighted_reward(p.reward)
    alpha, fraction, samples = p.objective.alpha, p.batches.student_fraction, p.rollout.samples_per_prompt
    sampling = (p.rollout.sampling.temperature, p.rollout.sampling.top_p)
    several = "at least 2, since a reward counts over the others of its prompt,"
    untruncated = "temperature 1 and top_p 1, of which the ratio to the student is defined,"
    needs = [
        (bool(p.reward), "reward", "a function", "none", "name one"),
        (fraction != 0, "batches.student_fraction", "above 0", fraction, "raise it"),
        (samples > 1, "rollout.samples_per_prompt", several, samples, "raise it"),
        (sampling == (1, 1), "rollout.sampling", untruncated, "{} and {}".format(*sampling), "set both to 1"),
    ]
    for met, where, expected, got, remedy in needs:
        if alpha < 1 and not met:
            expected, remedy = f"{expected} with objective.alpha {alpha}", f"{remedy}, or alpha to 1"
            raise ParameterError(where, expected=expected, got=got, remedy=remedy)


def _check_tail_estimator(p: Parameters) -> None:
    """Check that rollouts and scores hold what the tail estimator needs, and that it is unbiased with them."""
    estimator, sampling = objective.tail_estimator_of(p.objective), p.rollout.sampling
    where = f"rollout.sampling with objective.tail_estimator: {estimator}"
    remedy = "change it, or set objective.tail_estimator: bucket"
    got = f"temperature {sampling.temperature}, top_p {sampling.top_p}"
    if estimator in ("residual", "sampled") and (sampling.temperature, sampling.top_p) != (1, 1):
        expected = "temperature 1 and top_p 1, at which any token can be drawn"
        raise ParameterError(where, expected=expected, got=got, remedy=remedy)
    if estimator == "tail_mean" and comparable_temperature(sampling) is None:
        expected = "top_p 1 and a temperature above 0, of which the staleness is defined"
        raise ParameterError(where, expected=expected, got=got, remedy=remedy)
    if estimator == "tail_mean" and sampling.record_tail_samples == 0:
        raise ParameterError(where, expected="record_tail_samples of at least 1", got=0, remedy=remedy)
    estimated = CODECS[p.scoring.codec].bounds.draws_estimated
    divergence, temperature = p.objective.divergence.name, p.objective.temperature
    if estimator == "tail_samples" and estimated and (divergence, temperature) != ("forward_kl", 1):
        raise ParameterError(
            f"objective.tail_estimator with scoring.codec: {p.scoring.codec}",
            expected="tail_samples for forward_kl at temperature 1 only: their probabilities are estimates",
            got=f"{divergence} at temperature {temperature}",
            remedy="set scoring.codec: sqrt8, which scores again, or objective.tail_estimator: bucket",
        )
