"""Small records for tests, each with defaults for every field that a test does not care about."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.checkpoints.student import NewStudent, StudentParams
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, ScoredSequence, Scores
from pipeline.evaluation.completions import EvaluationParams
from pipeline.lineage.records import FORMAT, Lineage, ModelSource, Round, Scored
from pipeline.losses.divergences import DivergenceParams
from pipeline.losses.objective import ObjectiveParams
from pipeline.models import language_model as lm
from pipeline.models.lora import LoraParams
from pipeline.models.tokenizer import load_tokenizer
from pipeline.runtime.atomic import whole_directory
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import TruncationParams
from pipeline.training.batches import BatchParams
from tests.scores import top_only


def rollout(name: str, completion: Sequence[int], *, prompt: Sequence[int] = (1, 2), **changes: Any) -> Rollout:
    """Return a rollout with these token ids; `changes` sets other fields.

    A student wrote it with a log-prob of -1 per token, unless another source is given.
    """
    source = changes.get("source", "student")
    fields = {
        "prompt_id": "p",
        "source": source,
        "policy": "a" if source == "student" else "",
        "behaviour_logp": [-1.0] * len(completion) if source == "student" else [],
        "support_ids": [],
        "tail_sample_ids": [],
        "tail_offset": [],
        "finished": False,
        "text": "",
    }
    return Rollout(rollout_id=name, prompt_ids=list(prompt), completion_ids=list(completion), **(fields | changes))


def prompt(name: str, prompt_ids: Sequence[int], **changes: Any) -> Prompt:
    """Return a training prompt with these token ids; `changes` sets other fields."""
    fields = {"split": "train", "reference_ids": [], "prompt_text": "", "references": [""]}
    return Prompt(prompt_id=name, prompt_ids=list(prompt_ids), **(fields | changes))


def evaluation_params(**changes: Any) -> EvaluationParams:
    """Return the settings of a small evaluation in float32; `changes` sets other fields."""
    fields: dict[str, Any] = {"prompts": 4, "batch_size": 3, "max_new_tokens": 6, "precision": "float32"}
    fields |= {"temperatures": (0.0, 1.0), "recorded_prompts": 2, "stop_if_worse": False}
    return EvaluationParams(**(fields | changes))


def answered_prompt(name: str, length: int = 3) -> Prompt:
    """Return a training prompt of `length` tokens with the reference `ab`."""
    return prompt(name, range(65, 65 + length), reference_ids=[97, 98, 257], references=["ab"])


def answered_prompts() -> list[Prompt]:
    """Return nine of these prompts, p0 to p8, with three to six tokens."""
    return [answered_prompt(f"p{index}", length=3 + index % 4) for index in range(9)]


def model_source(model: str = "teacher", **changes: Any) -> ModelSource:
    """Return where a model came from; its fingerprint is its name with "-print"."""
    fields = {"model": model, "revision": None, "hub": False, "license": None, "fingerprint": f"{model}-print"}
    return ModelSource(**(fields | changes))


def lineage_round(id_: str = "r1", **changes: Any) -> Round:
    """Return the record of one round of training; `changes` sets other fields."""
    fields = {
        "id": id_,
        "first_step": 0,
        "steps": 4,
        "teacher": "teacher-print",
        "tokenizer": "tokenizer-print",
        "scorer": "scorer-print",
        "task": "gsm8k",
        "settings": {"data": "openai/gsm8k", "config": "main"},
        "hub_data": True,
        "prompts": "prompts-print",
        "parameters": {"seed": 0, "objective": {"temperature": 1.0}},
        "scored": (
            Scored(name="small/r1", segment="a" * 32, positions=50),
            Scored(name="corpus", segment="b", positions=9),
        ),
        "tokens": 1234,
        "read_tokens": 2345,
    }
    return Round(**(fields | changes))


def lineage(*rounds: Round, **changes: Any) -> Lineage:
    """Return the lineage of a student after these rounds; `changes` sets other fields."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "student": "small",
        "teacher": model_source(),
        "start": model_source("base"),
    }
    fields |= {"layers": (0, 2), "config": None, "rounds": rounds, "earlier": None}
    return Lineage(**(fields | changes))


def lora_params(**changes: Any) -> LoraParams:
    """Return parameters of a small adapter of every linear layer; `changes` sets other fields."""
    settings: dict[str, Any] = {
        "r": 2,
        "lora_alpha": 4.0,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "target_modules": "all-linear",
        "base_dtype": "float32",
    }
    return LoraParams(**(settings | changes))


def make_lora_student(home: Path, source: Path, p: LoraParams, *, seed: int = 0) -> Path:
    """Write the base and the initial adapter of a LoRA student as the init stage does, and return the adapter."""
    return make_student(home, source, p, seed=seed)


def make_student(home: Path, source: Path, p: LoraParams | None = None, *, seed: int = 0) -> Path:
    """Write the first checkpoint of a student as the init stage does, and return it."""
    student = StudentParams(model="teacher", revision=None, layers=None, config=None, lora=p)
    model, tokenizer, folder = lm.load_model(source), load_tokenizer(source), home / "init" / "model"
    with whole_directory(home / "base") as base, whole_directory(folder) as adapter:
        NewStudent(model=model, tokenizer=tokenizer, params=student, seed=seed, where="s").save(base, adapter)
    return folder


def with_weight(source: Path, path: Path, name: str, change: Callable[[Tensor], object]) -> Path:
    """Copy a model directory to `path`, and let `change` change the weight of this name in place."""
    shutil.copytree(source, path)
    weights = load_file(path / "model.safetensors")
    change(weights[name])
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def batch_params(**changes: Any) -> BatchParams:
    """Return parameters of batches of eight sequences; `changes` sets other fields."""
    fields = {"batch_size": 8, "micro_batch_size": 3, "student_fraction": 0.5, "corpus_weights": None}
    fields |= {"shuffle_window": 100, "scale_rewards": "none"}
    return BatchParams(**(fields | changes))


def objective_params(name: str = "forward_kl", **changes: Any) -> ObjectiveParams:
    """Return parameters of an objective with this divergence alone; `changes` sets other fields."""
    divergence = DivergenceParams(name=name, beta=0.5, skew=0.1, normalise=False)  # type: ignore[arg-type]
    fields = {"divergence": divergence, "temperature": 1.0, "tail_estimator": "auto", "tail_samples_scale": 0.3}
    fields |= {"tail_mean_staleness": 1.0, "cross_entropy": 0.0, "alpha": 1.0, "clip_epsilon": 0.2}
    return ObjectiveParams(**(fields | {"chunk_tokens": 1000} | changes))


def sampling_params(**changes: Any) -> Sampling:
    """Return sampling at temperature 1 that records likely tokens and no tail samples; `changes` sets other fields."""
    fields = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "record_threshold": 0.02, "record_max": 8}
    return Sampling(**(fields | {"record_tail_samples": 0} | changes))


def scores_of(completion: list[int]) -> Scores:
    """Return scores in which the log-prob of each sampled token is minus its id, so that no two are equal."""
    return top_only(completion, 0.0, [1] * len(completion), tail=0.0, token_logp=-np.array(completion))


def scored_sequence(name: int, tokens: int = 4) -> ScoredSequence:
    """Return a rollout of `tokens` tokens below 50 with scores that store each sampled token alone."""
    completion = [(name + t) % 50 for t in range(tokens)]
    scores = top_only(completion, -0.5, [1] * tokens, tail=0.4, token_logp=-0.5)
    written = rollout(f"r{name}", completion, prompt=[1, 2, name], finished=True)
    return ScoredSequence(rollout=written, scores=scores)


def scoring_params(**changes: Any) -> ScoringParams:
    """Return parameters that score one sequence at a time; `changes` sets other fields."""
    truncation = TruncationParams(
        threshold=0.01, max_entries=8, samples_per_tail=0.0, min_tail=0.1, temperatures=(1.0,)
    )
    fields = {"precision": "float32", "batch_size": 1, "flush_every": 2, "codec": "sqrt8", "truncation": truncation}
    return ScoringParams(**(fields | changes))
