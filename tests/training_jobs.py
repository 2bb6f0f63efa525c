"""A tiny training job for tests: a random teacher and student, scored rollouts, and parameters of every kind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.core.types import Rollout, ScoredSequence, Scores, TokenSequence, reference_rollouts
from pipeline.losses.batch import Batch
from pipeline.losses.objective import ObjectiveParams
from pipeline.rollout.collect import collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.progress import bar
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.score import ScoringParams, score_rollouts
from pipeline.scoring.scorer import TruncationParams
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.training.batches import Pool, iter_batches, open_pool, plan_steps
from pipeline.training.checkpoint import TrainState, checkpoints, open_run
from pipeline.training.loop import train
from pipeline.training.optimizer import OptimizerParams
from pipeline.training.run import TrainingRun
from tests.factories import batch_params, objective_params, prompt, sampling_params, scores_of
from tests.scores import header

VOCAB, EOS = 40, 39  # few enough tokens that a few hundred positions teach something about all of them
KEY = (0, "s", "r1")
SUPPORT = TruncationParams(threshold=0.02, max_entries=32, samples_per_tail=16.0, min_tail=0.02, temperatures=(1.0,))
PROMPTS = [
    prompt(f"p{index}", [38, index % 5, 10 + index], reference_ids=[20 + index, 30, 31, EOS]) for index in range(12)
]
MIX = batch_params(batch_size=6, student_fraction=0.7, shuffle_window=3)
OBJECTIVE = objective_params(chunk_tokens=20)  # fewer tokens than a micro-batch has
REWARDED_TOKEN = 7


@dataclass(frozen=True)
class Job:
    """A teacher and a student, with scores of the student's completions and of a fixed corpus."""

    teacher: Path
    student: Path
    own: Pool
    corpus: Pool


def scored(rollouts: list[Rollout], teacher: Path, path: Path, *, codec: str = "sqrt8", vocab: int = VOCAB) -> Pool:
    """Score rollouts through the scorer, the codec and a segment on disk."""
    p = ScoringParams(precision="float32", batch_size=1, flush_every=4, codec=codec, truncation=SUPPORT)
    segment_header = header(
        vocab,
        codec=codec,
        scorer=scorer_fingerprint("t", precision="float32", truncation=SUPPORT),
        teacher="t",
        tokenizer="k",
        dtype="float32",
        temperatures=SUPPORT.temperatures,
    )

    def load() -> HFScorer:
        return HFScorer(teacher, precision="float32", vocab=vocab, truncation=SUPPORT, batch_size=1)

    write_segment(path, score_rollouts(rollouts, {}, load, len, p, title="score"), segment_header, np.arange(vocab))
    return open_pool(rollouts, Segment.open(path), MIX)


def written_by(
    student: Path, count: int, *, tokens: int, seed: int = 0, record_tail_samples: int = 0, vocab: int = VOCAB
) -> list[Rollout]:
    """Return `count` completions per prompt, sampled from a student."""
    sampling = sampling_params(max_new_tokens=tokens, record_tail_samples=record_tail_samples)
    sampler = HFSampler(student, precision="float32", vocab=vocab, eos_ids=[EOS], seed=seed)
    batches = plan_batches(PROMPTS, count, 12, name="s/r1")
    return [
        rollout for batch in batches for rollout in collect_rollouts(batch, sampler, sampling, str, source="student")
    ]


def make_job(
    make_model_dir: Callable[..., Path],
    root: Path,
    *,
    samples: int,
    tokens: int,
    teacher_range: float,
    dropout: float,
) -> Job:
    """Make a random teacher and student below `root`, and score `samples` completions per prompt and the references."""
    ids = {"vocab": VOCAB, "bos_token_id": 38, "eos_token_id": EOS, "pad_token_id": EOS}
    teacher = make_model_dir(root / "teacher", seed=1, initializer_range=teacher_range, **ids)
    student = make_model_dir(root / "student", seed=2, initializer_range=0.1, attention_dropout=dropout, **ids)
    own = scored(written_by(student, samples, tokens=tokens), teacher, root / "own")
    corpus = scored(reference_rollouts(PROMPTS), teacher, root / "corpus")
    return Job(teacher, student, own, corpus)


def optimizer(**changes: Any) -> OptimizerParams:
    """Return parameters of the optimizer with a large learning rate; `changes` sets other fields."""
    settings = {
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 3,
        "decay_steps": 10,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "precision": "float32",
        "ema_decay": None,
        "disable_dropout": False,
        "gradient_checkpointing": False,
        "save_steps": 2,
        "save_dtype": "float32",
        "keep_rounds": None,
    }
    return OptimizerParams(**(settings | changes))


def training_run(start: Path, steps: range, **changes: Any) -> TrainingRun:
    """Return a round of the student `s` from the model directory `start`; `changes` sets other fields."""
    settings = {
        "student": "s",
        "round_id": "r1",
        "optimizer_state": None,
        "objective": OBJECTIVE,
        "optimizer": optimizer(),
        "batches": MIX,
        "replay": None,
        "seed": KEY[0],
        "vocab_size": VOCAB,
        "behaviour_temperature": 1.0,
        "max_staleness": None,
        "saved_dtype": None,
    }
    return TrainingRun(start=start, steps=steps, **(settings | changes))


def take_steps(model: Any, batches: Iterator[list[Batch]], state: TrainState, run: TrainingRun, scratch: Path) -> None:
    """Train with a progress bar that nobody looks at."""
    with bar("train", 50) as meter:
        train(model, batches, state, run, scratch, meter)


def share(rollout: Rollout) -> float:
    """Return the share of the rewarded token in a completion."""
    return rollout.completion_ids.count(REWARDED_TOKEN) / len(rollout.completion_ids)


def rewarded(rollouts: list[Rollout]) -> list[Rollout]:
    """Return the rollouts with the share of the rewarded token as their reward."""
    return [replace(rollout, reward=share(rollout)) for rollout in rollouts]


def train_round(
    student: Path, own: Pool, corpus: Pool, objective: ObjectiveParams, scratch: Path, *, steps: range, **mix: Any
) -> tuple[Path, TrainState, dict[str, Tensor]]:
    """Train for one round; return its last checkpoint, its state and log, and the gradients of its last step."""
    gradients: dict[str, Tensor] = {}
    p = optimizer(max_grad_norm=1e9, save_steps=1000)
    run = training_run(student, steps, optimizer=p, objective=objective, batches=replace(MIX, **mix))
    scratch.mkdir()
    model, state = open_run(run, scratch)

    def record(*_: Any) -> None:
        gradients.update({name: weight.grad.clone() for name, weight in model.named_parameters()})

    state.optimizer.register_step_pre_hook(record)
    planned = plan_steps(own, corpus, run.batches, key=run.key, steps=steps, replay=0.0)
    take_steps(model, iter_batches(planned, temperature=1.0, column=0), state, run, scratch)
    return checkpoints(scratch)[-1] / "model", state, gradients


class CountingTeacher:
    """A scorer that counts its loads and records which completions it scores."""

    def __init__(self) -> None:
        self.loaded = 0
        self.scored: list[list[int]] = []
        self.published: list[list[str]] = []

    def load(self) -> "CountingTeacher":
        self.loaded += 1
        return self

    def score(self, sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        self.scored += [sequence.completion_ids for sequence in sequences]
        on_tokens(sum(len(sequence.prompt_ids) + len(sequence.completion_ids) for sequence in sequences))
        return [scores_of(sequence.completion_ids) for sequence in sequences]

    def publish(self, fresh: Sequence[ScoredSequence]) -> None:
        self.published.append([sequence.rollout.rollout_id for sequence in fresh])
