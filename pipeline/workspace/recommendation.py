"""Choose the sizes of a job and its optimizer by the kind of student and the number of cases, each with a reason.

Learning rates are those of published practice, and of this project's own runs where there are some:

* ready-made, 1e-6: the default of TRL's DistillationTrainer. Qwen2.5-Coder 0.5B, 0.17 nats from its teacher of 1.5B,
  kept its quality at this rate and lost half of it at 1e-5 (16 steps of 8). The rate is safe and may be too small: a
  Llama of 0.7 M, 0.19 nats away, needed 1e-4 (docs/training.md, which also has the control). A student that is further
  than 0.5 nats away has more to learn than it can lose: 2e-5, the example of TRL's GKDTrainer.
  Encoder-decoders take 3e-4, of which the page of transformers about T5 says that it works well with AdamW.
* LoRA, ten times the rate of full training, as Schulman et al. 2025 ("LoRA Without Regret") measured; they also found a
  constant rate after a warm-up enough.
* cut, 2e-4: the default job takes 1.5e-4 for 24 steps on 24 of 30 layers, the preset layers-13 3e-4 for 96 steps.
* fresh, 1e-3 below 100 M weights, else 3e-4: the preset arithmetic-tiny takes 2e-3 for 2 M weights; rates of
  pretraining fall with the size (Kaplan et al. 2020, appendix D.6).

The divergence is reverse KL, as in the default job. A student with random weights takes forward KL: the gradient
of reverse KL is proportional to the student's own probability and hardly raises tokens that it does not know yet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.training.mixing import Ramp, fraction_at
from pipeline.workspace.pair import Kind

Changes: TypeAlias = dict[tuple[str, ...], Any]

_NEAR = 0.5  # nats
_LORA = "an adapter takes ten times the rate of a whole model"
_SMALL_FRESH = 100_000_000  # weights
_MOST_PROMPTS = 10_000
MOST_HELDOUT = 200
KEPT_ROUNDS = 2  # optimizers; with 1, a kill right after a round costs the rounds before it
_STEPS = {"cpu": (32, 200), "cuda": (32, 1000)}  # fewest and most optimizer steps
_EVALUATED = {"cpu": 32, "cuda": 200}  # prompts
_ROUNDS = 8
_BATCHED_TOKENS = 1 << 14  # tokens of a batch that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the choice depends on."""

    kind: Kind
    lora: bool
    separate: bool  # Whether encoder and decoder are separate
    distance: float | None  # Forward KL of a ready-made student before training, in nats per token; None: not measured
    weights: int  # Weights of the student
    train: int  # Cases
    heldout: int
    prompt: int  # Lengths in tokens
    completion: int
    device: str  # cpu or cuda


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes of a job."""

    prompts: int  # Training prompts
    heldout: int
    steps: int
    refresh: int
    batch: int
    per_round: int  # Prompts per round
    samples: int  # Completions per prompt
    corpus: int  # Prompts with a reference and completions of the teacher
    evaluated: int

    @property
    def rounds(self) -> int:
        """The number of rounds."""
        return math.ceil(self.steps / self.refresh)


def learning_rate(facts: Facts) -> tuple[float, str]:
    """Return the learning rate and the reason for it."""
    if facts.kind == "ready-made" and not facts.separate:
        return _of_ready_made(facts)
    if facts.lora:
        return 2e-4, _LORA
    if facts.kind == "ready-made":
        return 3e-4, "usual for T5 and its kin"
    if facts.kind == "cut":
        return 2e-4, "a cut model has to be repaired"
    small = facts.weights < _SMALL_FRESH
    return 1e-3 if small else 3e-4, f"random weights, {'fewer' if small else 'more'} than 100 M"


def _of_ready_made(facts: Facts) -> tuple[float, str]:
    """Return the learning rate of a decoder that is used as it is, and the reason."""
    where = "" if facts.distance is None else f"{facts.distance:.2f} nats from its teacher: "
    if facts.distance is None or facts.distance < _NEAR:
        why = f"{where}safe for models of billions (TRL's default); a small one may need 1e-5 to 1e-4: docs/training.md"
        rates = 1e-6, 1e-5
    else:
        rates, why = (2e-5, 2e-4), f"{where}there is much to learn"
    return (rates[1], f"{why}; {_LORA}") if facts.lora else (rates[0], why)


def plan_job(facts: Facts) -> Plan:
    """Return the sizes: half of each batch from the student, and each case about three times in a small data set."""
    prompts = min(facts.train, _MOST_PROMPTS)
    batch = 8 if prompts < 500 else 16 if prompts < 5000 else 32
    own = batch // 2  # student_fraction 0.5
    samples = 4 if prompts < 5000 else 2
    passes = 3 if prompts < 1000 else 1
    fewest, most = _STEPS[facts.device]
    steps = max(fewest, min(most, math.ceil(passes * prompts * samples / own)))
    refresh = math.ceil(steps / _ROUNDS)
    per_round = min(prompts, math.ceil(refresh * own / samples))
    return Plan(
        prompts=prompts,
        heldout=min(facts.heldout, MOST_HELDOUT),
        steps=steps,
        refresh=refresh,
        batch=batch,
        per_round=per_round,
        samples=max(samples, math.ceil(refresh * own / per_round)),
        corpus=min(prompts, max(12, math.ceil(steps * own / 6))),
        evaluated=min(facts.heldout, _EVALUATED[facts.device]),
    )


def sequences_per_pass(facts: Facts) -> int:
    """Return the number of sequences that are read together where nothing is trained."""
    return max(1, min(16, _BATCHED_TOKENS // (facts.prompt + facts.completion)))


def job_changes(facts: Facts, plan: Plan, micro_batch: int) -> Changes:
    """Return the parameters to change."""
    rate, _ = learning_rate(facts)
    scheduler = "constant_with_warmup" if facts.lora else "cosine" if facts.kind == "fresh" else "linear"
    batched = sequences_per_pass(facts)
    ramp = {"start": 0.0, "end": 0.5, "steps": max(1, plan.steps // 2)}
    return {
        ("schedule", "total_steps"): plan.steps,
        ("schedule", "refresh_every"): plan.refresh,
        ("task", "train"): plan.prompts,
        ("task", "heldout"): plan.heldout,
        ("task", "max_prompt_tokens"): facts.prompt,
        ("rollout", "prompts"): plan.per_round,
        ("rollout", "samples_per_prompt"): plan.samples,
        ("rollout", "sampling", "max_new_tokens"): facts.completion,
        ("corpus", "references"): plan.corpus,
        ("corpus", "generations"): plan.corpus,
        ("corpus", "samples_per_prompt"): 2,
        ("scoring", "batch_size"): batched,
        ("batches", "batch_size"): plan.batch,
        ("batches", "micro_batch_size"): micro_batch,
        ("objective", "divergence", "name"): "forward_kl" if facts.kind == "fresh" else "reverse_kl",
        ("batches", "student_fraction"): ramp if facts.kind == "fresh" else 0.5,
        ("optimizer", "learning_rate"): rate,
        ("optimizer", "lr_scheduler_type"): scheduler,
        ("optimizer", "ema_decay"): None,
        ("optimizer", "warmup_steps"): max(3, plan.steps // 20),
        ("optimizer", "decay_steps"): math.ceil(plan.steps * 4 / 3),
        ("optimizer", "save_steps"): plan.refresh,
        ("optimizer", "keep_rounds"): KEPT_ROUNDS,
        ("evaluation", "prompts"): plan.evaluated,
        ("evaluation", "batch_size"): batched,
        ("evaluation", "max_new_tokens"): facts.completion,
        ("evaluation", "recorded_prompts"): min(12, plan.evaluated),
    }


def reasons(facts: Facts, plan: Plan, changes: Mapping[tuple[str, ...], Any]) -> list[str]:
    """Return each choice with its reason, line by line."""
    rate, why = learning_rate(facts)
    scheduler, warmup = (changes["optimizer", key] for key in ("lr_scheduler_type", "warmup_steps"))
    student = f"{facts.kind} student{', LoRA' if facts.lora else ''}"
    shares = "rising from 0 to half of each batch: random weights write noise" if facts.kind == "fresh" else "half"
    fraction = changes["batches", "student_fraction"]
    fraction = Ramp(**fraction) if facts.kind == "fresh" else fraction
    drawn = sum(plan.batch * (1 - fraction_at(fraction, step)) for step in range(plan.steps))
    all_ = "all" if plan.prompts == facts.train else f"{plan.prompts:,} of"
    return [
        f"learning rate {rate:g}, {scheduler}, {warmup} warm-up steps: {student}; {why}",
        f"steps: {plan.steps} of {plan.batch} sequences, by {all_} {facts.train:,} training cases, at most "
        f"{_STEPS[facts.device][1]} on {facts.device}; the student's own share is {shares}",
        f"rounds: {plan.rounds} of {plan.refresh} steps, each with {plan.per_round} prompts x {plan.samples} "
        "completions, which is what the steps use",
        f"corpus: {plan.corpus} prompts with the reference and 2 completions of the teacher, each used about "
        f"{drawn / (3 * plan.corpus):.2g} times",
        f"evaluation: {plan.evaluated} of {facts.heldout:,} held-out cases",
    ]
