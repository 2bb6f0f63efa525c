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
from pipeline.runtime.errors import require
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
from pipeline.workspace.students import complete_student

_MOST_ROUNDS = 1000
# Names of work/ that are not students.
_RESERVED = ("base", "corpus", "costs", "evaluations", "prompts", "students", "teacher")


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
    """Weights of the summed functions: exact_match, rouge_l, bleu, length (tokens), finished, or module:function."""
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
    document = read_yaml(path)
    p = parse(Parameters, document, where="")
    task = find_task(p.task.name)
    parse(task.settings, p.task.settings, where="task.settings")
    check_template(p.task.template, task.fields)
    objective.check_objective(p.objective)
    weighted_reward(p.reward)
    _check_schedule(p.schedule)
    _check_models(p)
    _check_scoring(p.scoring)
    _check_sources(p)
    optimizers = {"optimizer": p.optimizer}
    optimizers |= {f"student.{name}.optimizer": complete_student(document, name)[1] for name in p.student}
    for where, optimizer in optimizers.items():
        _check_decay(optimizer, p.schedule.total_steps, "schedule.total_steps", where=where)
    for name, tuning in p.sft.items():
        _check_decay(tuning.optimizer, tuning.steps, f"sft.{name}.steps", where=f"sft.{name}.optimizer")
    expected, temperatures = "a list with 0 and 1", list(p.evaluation.temperatures)
    met = {0.0, 1.0} <= {*temperatures}
    require(met, "evaluation.temperatures", expected=expected, got=temperatures, remedy="add them")
    expected, remedy = f"at most task.heldout ({p.task.heldout})", "lower it, or raise task.heldout"
    met, prompts = p.evaluation.prompts <= p.task.heldout, p.evaluation.prompts
    require(met, "evaluation.prompts", expected=expected, got=prompts, remedy=remedy)
    if p.objective.alpha < 1:
        _check_rewards(p)
    _check_tail_estimator(p)
    objective.temperature_column(p.objective, p.scoring.truncation.temperatures)


def _check_schedule(p: ScheduleParams) -> None:
    """Check that rounds.yaml stays small enough for DVC."""
    expected = f"at most {_MOST_ROUNDS:,} rounds"
    met, got = p.total_steps <= _MOST_ROUNDS * p.refresh_every, f"{p.total_steps} steps"
    require(met, "schedule.total_steps", expected=expected, got=got, remedy="lower it, or raise schedule.refresh_every")


def _check_models(p: Parameters) -> None:
    """Check that names can be parts of paths and of stage names, and that every trained model is described."""
    require(bool(p.students), "students", expected="at least one name", got="none", remedy="name a student")
    once, got = len(set(p.students)) == len(p.students), ", ".join(p.students)
    require(once, "students", expected="each name once", got=got, remedy="remove the second")
    for name in p.students:
        expected = f"names of letters, digits and _ other than {', '.join(_RESERVED)}"
        fits = name.isidentifier() and name not in _RESERVED
        require(fits, "students", expected=expected, got=repr(name), remedy="rename it")
        expected = f"names out of: {', '.join(p.student)}"
        require(name in p.student, "students", expected=expected, got=repr(name), remedy="add it to student")
    models = ["teacher", *p.student]
    for name in p.sft:
        expected = f"names out of: {', '.join(models)}"
        require(name in models, "sft", expected=expected, got=repr(name), remedy="rename it")


def _check_scoring(p: ScoringParams) -> None:
    expected, temperatures = f"one of: {', '.join(CODECS)}", list(p.truncation.temperatures)
    require(p.codec in CODECS, "scoring.codec", expected=expected, got=repr(p.codec), remedy="fix params.yaml")
    where, expected = "scoring.truncation.temperatures", "a list that starts with 1.0"
    require(temperatures[:1] == [1.0], where, expected=expected, got=temperatures, remedy="put 1.0 first")


def _check_sources(p: Parameters) -> None:
    """Check that each batch slot can be filled: by the fixed corpus, or by rollouts of the student."""
    fraction, weights, where = p.batches.student_fraction, p.batches.corpus_weights, "batches.student_fraction"
    references, generations = p.corpus.prompts_of(p.task.train)
    sequences = (weights.dataset if weights else 1) * references + (weights.teacher if weights else 1) * generations
    on_policy = all(fraction_at(fraction, step) == 1 for step in (0, p.schedule.total_steps - 1))
    remedy = "raise it, or corpus.references or corpus.generations and their weights"
    require(sequences > 0 or on_policy, where, expected="1 without a corpus", got=fraction, remedy=remedy)
    sampled, remedy = p.rollout.prompts > 0, "raise rollout.prompts"
    require(sampled or fraction == 0, where, expected="0 without rollouts", got=fraction, remedy=remedy)


def _check_decay(p: OptimizerParams, steps: int, name: str, *, where: str) -> None:
    """Check that the learning rate is above 0 at every step; `name` is the key of the number of steps."""
    positive = p.lr_scheduler_type == "constant_with_warmup" or steps <= p.decay_steps
    expected = f"at least {name} ({steps}) with {p.lr_scheduler_type}, which ends in 0"
    remedy = "raise it, which trains the earlier rounds again, or take constant_with_warmup"
    require(positive, f"{where}.decay_steps", expected=expected, got=p.decay_steps, remedy=remedy)


def _check_rewards(p: Parameters) -> None:
    """Check that every rollout has a reward, an advantage and a ratio to the student."""
    fraction, samples, sampling = p.batches.student_fraction, p.rollout.samples_per_prompt, p.rollout.sampling
    alpha = p.objective.alpha
    expected = f"a function with objective.alpha {alpha}"
    require(bool(p.reward), "reward", expected=expected, got="none", remedy="name one, or set objective.alpha to 1")
    where, expected = "batches.student_fraction", f"above 0 with objective.alpha {alpha}"
    require(fraction != 0, where, expected=expected, got=fraction, remedy="raise it, or set objective.alpha to 1")
    where = "rollout.samples_per_prompt"
    reason = "because a reward is compared with the prompt's other completions"
    expected = f"at least 2, {reason}, with objective.alpha {alpha}"
    require(samples > 1, where, expected=expected, got=samples, remedy="raise it, or set objective.alpha to 1")
    expected = f"temperature 1 and top_p 1, for which the ratio to the student is defined, with objective.alpha {alpha}"
    met, got = sampling.temperature == sampling.top_p == 1, f"{sampling.temperature} and {sampling.top_p}"
    require(met, "rollout.sampling", expected=expected, got=got, remedy="set both to 1, or set objective.alpha to 1")


def _check_tail_estimator(p: Parameters) -> None:
    """Check that rollouts and scores hold what the tail estimator needs, and that it is unbiased with them."""
    estimator, sampling = objective.tail_estimator_of(p.objective), p.rollout.sampling
    where = f"rollout.sampling with objective.tail_estimator: {estimator}"
    remedy = "change it, or set objective.tail_estimator: bucket"
    got = f"temperature {sampling.temperature}, top_p {sampling.top_p}"
    if estimator in ("residual", "sampled"):
        expected = "temperature 1 and top_p 1, at which any token can be drawn"
        require(sampling.temperature == sampling.top_p == 1, where, expected=expected, got=got, remedy=remedy)
    if estimator == "tail_mean":
        expected = "top_p 1 and a temperature above 0, for which the staleness is defined"
        require(comparable_temperature(sampling) is not None, where, expected=expected, got=got, remedy=remedy)
        expected, samples = "record_tail_samples of at least 1", sampling.record_tail_samples
        require(samples > 0, where, expected=expected, got=samples, remedy=remedy)
    if estimator == "tail_samples" and CODECS[p.scoring.codec].bounds.draws_estimated:
        divergence, temperature = p.objective.divergence.name, p.objective.temperature
        where = f"objective.tail_estimator with scoring.codec: {p.scoring.codec}"
        expected = "tail_samples for forward_kl at temperature 1 only: their probabilities are estimates"
        remedy = "set scoring.codec: sqrt8, which scores again, or objective.tail_estimator: bucket"
        got = f"{divergence} at temperature {temperature}"
        require((divergence, temperature) == ("forward_kl", 1), where, expected=expected, got=got, remedy=remedy)
