"""Estimate what a job takes: memory, disk and time, before anything runs.

Memory is weights, activations and logits. Activations of training take 34 bytes per hidden unit, layer and token in a
16-bit format and twice as many in float32 (Korthikanti et al. 2022, section 4.1, without the attention matrix). Bytes
of scores are those of the default job (62 per position). Seconds follow from the speeds of the teacher, scaled by the
number of weights; training takes three forward passes.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.models.language_model import device, resolve_dtype
from pipeline.runtime.text import size_text
from pipeline.training.optimizer import OptimizerParams
from pipeline.workspace.disk_usage import round_bytes
from pipeline.workspace.pair import Pair, device_bytes
from pipeline.workspace.probe import Probe
from pipeline.workspace.recommendation import Facts, Plan, sequences_per_pass

_ADAM_BYTES = 16  # per trained weight: itself, its gradient and two moments in float32
_ACTIVATION_BYTES = 17  # per hidden unit, layer, token and byte of the number format
_SCORE_BYTES = 62  # per position
_STAGE_SECONDS = 10.0  # the start of a stage's process
_UTILISATION = 0.3  # of the speed of a matrix product, where no speed was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of a model."""

    weights: int
    hidden: int
    layers: int
    vocab: int

    @classmethod
    def of(cls, model: Any) -> "Size":
        """Return the size of a model, which may be without weights."""
        config = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight
        layers = getattr(config, "num_hidden_layers", 1) + (getattr(config, "num_decoder_layers", 0) or 0)
        return cls(
            weights=int(model.num_parameters()), hidden=embedding.shape[1], layers=layers, vocab=embedding.shape[0]
        )


def memory_needs(pair: Pair, facts: Facts, document: Mapping[str, Any], micro_batch: int) -> dict[str, int]:
    """Return the bytes of scoring, of training and of the evaluation."""
    teacher, student = Size.of(pair.teacher), Size.of(pair.student)
    length, batch = facts.prompt + facts.completion, sequences_per_pass(facts)
    scoring, evaluation, training = (
        resolve_dtype(document[section]["precision"]).itemsize for section in ("scoring", "evaluation", "optimizer")
    )
    logits = 3 * 4 * document["objective"]["chunk_tokens"] * student.vocab
    reading = batch * length * teacher.hidden * 4 * scoring + logits
    activations = micro_batch * length * student.hidden * student.layers * _ACTIVATION_BYTES * training
    frozen = 2 * student.weights if facts.lora else 0
    return {
        "scoring": teacher.weights * scoring + reading,
        "training": pair.trained * _ADAM_BYTES + frozen + activations + logits,
        "evaluation": (teacher.weights + student.weights) * evaluation + reading,
    }


def fitting_micro_batch(pair: Pair, facts: Facts, document: Mapping[str, Any], batch: int) -> int:
    """Return the largest micro-batch, half as often as needed, with which training takes at most 60 % of the device."""
    micro = batch
    while micro > 1 and memory_needs(pair, facts, document, micro)["training"] > 0.6 * device_bytes():
        micro //= 2
    return micro


def memory_lines(needs: Mapping[str, int]) -> list[str]:
    """Return lines that compare the needs with the device."""
    memory = device_bytes()
    amounts = ", ".join(f"{name} {size_text(size)}" for name, size in needs.items())
    lines = [f"memory, estimated with activations and logits: {amounts}; device: {size_text(memory)}"]
    return lines + [f"warning: {name} does not fit the device" for name, size in needs.items() if size > memory]


def disk_line(pair: Pair, facts: Facts, plan: Plan, p: OptimizerParams, *, linked: bool) -> str:
    """Return a line about the bytes that the job needs in work/, in DVC's cache and in the store, and those free."""
    models = 2 * Size.of(pair.teacher).weights + 4 * Size.of(pair.student).weights
    disk = round_bytes(p, pair.trained, plan.rounds, plan.refresh, linked=linked)
    scores = _SCORE_BYTES * facts.completion * (plan.corpus * 3 + plan.rounds * plan.per_round * plan.samples)
    cached = "linked to DVC's cache" if linked else f"DVC's cache: {size_text(models + disk.copies)} more"
    kept = plan.rounds if p.keep_rounds is None else min(plan.rounds, p.keep_rounds)
    rounds = f"{plan.rounds} rounds {size_text(disk.models)} ({cached}), {kept} optimizers {size_text(disk.optimizers)}"
    more = f"a round in training {size_text(disk.passing)}, scores at most {size_text(scores)}"
    return f"disk: models {size_text(models)}, {rounds}, {more}; {size_text(shutil.disk_usage(Path()).free)} are free"


def time_line(pair: Pair, facts: Facts, plan: Plan, probe: Probe | None) -> str:
    """Return a line about the seconds of the job by stage."""
    sampled, read = _speeds(probe, Size.of(pair.teacher).weights)
    ratio = Size.of(pair.student).weights / Size.of(pair.teacher).weights
    mean = sum(probe.lengths) / len(probe.lengths) if probe else facts.completion / 2
    mean = min(mean, facts.completion)
    own, corpus = plan.rounds * plan.per_round * plan.samples, 2 * plan.corpus
    sequence = facts.prompt + mean
    checkpoints, evaluated = plan.rounds + 2, plan.evaluated
    seconds = {
        "sampling": (corpus + own * ratio) * mean / sampled,
        "scoring": (own + 1.5 * corpus) * sequence / read,
        "training": 3 * ratio * plan.steps * plan.batch * sequence / read,
        "evaluation": checkpoints * evaluated * (2 * ratio * mean / sampled + sequence * (1 + ratio) / read),
        "starting stages": _STAGE_SECONDS * (5 + 4 * plan.rounds),
    }
    basis = "by the speed of these completions" if probe else "a rough estimate by the speed of a matrix product"
    parts = ", ".join(f"{name} {_minutes(value)}" for name, value in seconds.items())
    return f"time: about {_minutes(sum(seconds.values()))}, {basis}: {parts}"


def _speeds(probe: Probe | None, weights: int) -> tuple[float, float]:
    """Return the tokens per second that the teacher samples and reads."""
    if probe is not None:
        return probe.sampled_tokens_per_s, probe.read_tokens_per_s
    matrix = torch.ones(1024, 1024, device=device(), dtype=resolve_dtype("auto"))
    began = time.monotonic()
    for _ in range(4):
        matrix = matrix @ matrix * 0.0
    operations = 4 * 2 * 1024**3 / max(time.monotonic() - began, 1e-4)
    read = _UTILISATION * operations / (2 * weights)
    return read / 10, read


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
