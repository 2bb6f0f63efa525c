"""Check all of params.yaml at once: decode every section, and check what one section requires of another.

The first stage runs these checks, so a mistake in a parameter of the last stage is reported within seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

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

Requirement: TypeAlias = tuple[bool, str, object, object, str]
"""Whether a requirement is met, and the parts of the message otherwise: where, expected, got, and remedy."""


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
    objective.check_objective(p.objective)
    weighted_reward(p.reward)
    for group in (_students, _scoring, _sources, _learning_rates, _rewards, _tail_estimator):
        for met, where, expected, got, remedy in group(p):
            if not met:
                raise ParameterError(where, expected=expected, got=got, remedy=remedy)
    objective.temperature_column(p.objective, p.scoring.truncation.temperatures)


def _students(p: Parameters) -> Iterator[Requirement]:
    """Yield that names can be parts of paths and of stage names, and that each trained or tuned model is described."""
    names = f"names of letters, digits and _ other than {', '.join(_RESERVED)}"
    for name in p.students:
        yield name.isidentifier() and name not in _RESERVED, "students", names, repr(name), "rename it"
        yield name in p.student, "students", f"names out of: {', '.join(p.student)}", repr(name), "add it to student"
    models = ["teacher", *p.student]
    for name in p.sft:
        yield name in models, "sft", f"names out of: {', '.join(models)}", repr(name), "rename it"


def _scoring(p: Parameters) -> Iterator[Requirement]:
    """Yield that the codec exists, and that temperature 1 is scored first."""
    codec, temperatures = p.scoring.codec, list(p.scoring.truncation.temperatures)
    yield codec in CODECS, "scoring.codec", f"one of: {', '.join(CODECS)}", repr(codec), "fix params.yaml"
    starts, where = temperatures[:1] == [1.0], "scoring.truncation.temperatures"
    yield starts, where, "a list that starts with 1.0", temperatures, "put 1.0 first"


def _sources(p: Parameters) -> Iterator[Requirement]:
    """Yield that each batch slot can be filled: by the fixed corpus, or by rollouts of the student."""
    fraction, weights, where = p.batches.student_fraction, p.batches.corpus_weights, "batches.student_fraction"
    sequences = (weights.dataset if weights else 1) * p.corpus.references
    sequences += (weights.teacher if weights else 1) * p.corpus.generations
    on_policy = all(fraction_at(fraction, step) >= 1 for step in (0, p.schedule.total_steps - 1))
    remedy = "raise it, or corpus.references or corpus.generations and their weights"
    yield sequences > 0 or on_policy, where, "1 without a corpus", fraction, remedy
    yield fraction == 0 or p.rollout.prompts > 0, where, "0 without rollouts", fraction, "raise rollout.prompts"


def _learning_rates(p: Parameters) -> Iterator[Requirement]:
    """Yield that the learning rate of the training and of each fine-tuning is above 0 at every step."""
    trainings = [("optimizer", p.optimizer, "schedule.total_steps", p.schedule.total_steps)]
    trainings += [(f"sft.{name}.optimizer", q.optimizer, f"sft.{name}.steps", q.steps) for name, q in p.sft.items()]
    remedy = "raise it, which trains the earlier rounds again, or take constant_with_warmup"
    for section, optimizer, key, steps in trainings:
        expected = f"at least {key} ({steps}) with {optimizer.lr_scheduler_type}, which ends in 0"
        positive = optimizer.lr_scheduler_type == "constant_with_warmup" or steps <= optimizer.decay_steps
        yield positive, f"{section}.decay_steps", expected, optimizer.decay_steps, remedy


def _rewards(p: Parameters) -> Iterator[Requirement]:
    """Yield that every rollout has an advantage and a ratio to the student where rewards count."""
    alpha, fraction, samples = p.objective.alpha, p.batches.student_fraction, p.rollout.samples_per_prompt
    sampling = (p.rollout.sampling.temperature, p.rollout.sampling.top_p)
    if alpha < 1:
        counted, remedy = f"with objective.alpha {alpha}", "or alpha to 1"
        several = f"at least 2, since a reward counts over the others of its prompt, {counted}"
        untruncated = f"temperature 1 and top_p 1, of which the ratio to the student is defined, {counted}"
        yield bool(p.reward), "reward", f"a function {counted}", "none", f"name one, {remedy}"
        yield fraction != 0, "batches.student_fraction", f"above 0 {counted}", fraction, f"raise it, {remedy}"
        yield samples > 1, "rollout.samples_per_prompt", several, samples, f"raise it, {remedy}"
        got = "{} and {}".format(*sampling)
        yield sampling == (1, 1), "rollout.sampling", untruncated, got, f"set both to 1, {remedy}"


def _tail_estimator(p: Parameters) -> Iterator[Requirement]:
    """Yield that rollouts and scores hold what the tail estimator needs, and that it is unbiased with them."""
    estimator, sampling = objective.tail_estimator_of(p.objective), p.rollout.sampling
    where = f"rollout.sampling with objective.tail_estimator: {estimator}"
    remedy = "change it, or set objective.tail_estimator: bucket"
    got = f"temperature {sampling.temperature}, top_p {sampling.top_p}"
    if estimator in ("residual", "sampled"):
        untruncated = (sampling.temperature, sampling.top_p) == (1, 1)
        yield untruncated, where, "temperature 1 and top_p 1, at which any token can be drawn", got, remedy
    if estimator == "tail_mean":
        expected = "top_p 1 and a temperature above 0, of which the staleness is defined"
        yield comparable_temperature(sampling) is not None, where, expected, got, remedy
        recorded = sampling.record_tail_samples
        yield recorded > 0, where, "record_tail_samples of at least 1", recorded, remedy
    if estimator == "tail_samples" and CODECS[p.scoring.codec].bounds.draws_estimated:
        divergence, temperature = p.objective.divergence.name, p.objective.temperature
        where = f"objective.tail_estimator with scoring.codec: {p.scoring.codec}"
        expected = "tail_samples for forward_kl at temperature 1 only: their probabilities are estimates"
        remedy = "set scoring.codec: sqrt8, which scores again, or objective.tail_estimator: bucket"
        got = f"{divergence} at temperature {temperature}"
        yield (divergence, temperature) == ("forward_kl", 1), where, expected, got, remedy
