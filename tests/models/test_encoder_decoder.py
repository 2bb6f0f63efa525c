"""A T5 made here learns to copy its source, and teaches a smaller one: sampler, scorer, store and training loop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoints.student import StudentParams, start_student
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, reference_rollouts
from pipeline.models import language_model as lm
from pipeline.rollout.collect import collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.score import ScoringParams, score_rollouts
from pipeline.scoring.scorer import TruncationParams
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.training.batches import Pool, iter_batches, open_pool, plan_steps
from pipeline.training.checkpoint import checkpoints, open_run
from tests import training_jobs
from tests.scores import header

VOCAB, PAD, EOS, LENGTH = 20, 0, 1, 3
SUPPORT = TruncationParams(threshold=0.01, max_entries=16, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0,))
MIX = replace(training_jobs.MIX, batch_size=16, micro_batch_size=16, student_fraction=0.5, shuffle_window=64)
OBJECTIVE = replace(training_jobs.OBJECTIVE, chunk_tokens=64)
OPTIMIZER = training_jobs.optimizer(
    learning_rate=5e-3, warmup_steps=5, decay_steps=100, adam_beta2=0.99, save_steps=100
)
STEPS = 95


def words(rng: np.random.Generator, count: int) -> list[list[int]]:
    return rng.integers(2, VOCAB, (count, LENGTH)).tolist()  # type: ignore[no-any-return]


def as_prompts(sentences: Sequence[list[int]]) -> list[Prompt]:
    return [
        Prompt(
            prompt_id=f"p{index}",
            split="train",
            prompt_ids=[*ids, EOS],
            reference_ids=[*ids, EOS],
            prompt_text="",
            references=[""],
        )
        for index, ids in enumerate(sentences)
    ]


@pytest.fixture(scope="module")
def copier(make_t5_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A T5 taught from scratch to copy three tokens, and its losses in nats a token."""
    root = tmp_path_factory.mktemp("copier")
    model = lm.load_model(make_t5_dir(root / "fresh", vocab_size=VOCAB, dropout_rate=0.0, num_heads=2)).train()
    rng, losses = np.random.default_rng(0), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        texts = [[*ids, EOS] for ids in words(rng, 32)]
        logits_NV = lm.head_of(model, VOCAB)(lm.completion_hidden(model, texts, texts))
        loss = torch.nn.functional.cross_entropy(logits_NV, torch.tensor([token for text in texts for token in text]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(root / "copier")
    return root / "copier", losses


def copied(model: Path) -> float:
    """The share of 50 new sources that a model copies, greedily."""
    prompts = as_prompts(words(np.random.default_rng(1), 50))
    sampling = Sampling(
        max_new_tokens=8, temperature=0.0, top_p=1.0, record_threshold=0.0, record_max=0, record_tail_samples=0
    )
    sampler = HFSampler(model, precision="float32", vocab=VOCAB, eos_ids=[EOS], seed=0)
    samples = sampler.sample(
        [prompt.prompt_ids for prompt in prompts], [prompt.prompt_id for prompt in prompts], sampling
    )
    return float(
        np.mean([sample.token_ids == prompt.reference_ids for sample, prompt in zip(samples, prompts, strict=True)])
    )


def test_a_t5_from_scratch_learns_to_copy(copier: tuple[Path, list[float]]) -> None:
    path, losses = copier
    assert losses[0] > np.log(VOCAB) - 0.5
    assert np.mean(losses[-10:]) < 0.2
    assert copied(path) > 0.8


def scored(rollouts: list[Rollout], teacher: Path, path: Path) -> Pool:
    """Through the scorer, the codec and a segment on disk."""
    p = ScoringParams(precision="float32", batch_size=16, flush_every=512, codec="sqrt8", truncation=SUPPORT)
    scorer = scorer_fingerprint("t", precision="float32", truncation=SUPPORT)
    said: Any = header(VOCAB, scorer=scorer, teacher="t", tokenizer="k", dtype="float32", temperatures=(1.0,))

    def load() -> HFScorer:
        return HFScorer(teacher, precision="float32", vocab=VOCAB, truncation=SUPPORT, batch_size=16)

    write_segment(path, score_rollouts(rollouts, {}, load, len, p, title="score"), said, np.arange(VOCAB))
    return open_pool(rollouts, Segment.open(path), MIX)


def test_it_teaches_a_student_cut_from_it(copier: tuple[Path, list[float]], tmp_path: Path) -> None:
    """On its own rollouts and on references: the divergence falls, and copying comes back."""
    teacher, _ = copier
    layers: dict[str, tuple[int, ...]] = {"encoder": (1,), "decoder": (1,)}
    cut = StudentParams(model="teacher", revision=None, layers=layers, config=None, lora=None)
    student = tmp_path / "student"
    start_student(cut, lm.load_model(teacher), seed=0, where="student.small").save_pretrained(student)
    prompts = as_prompts(words(np.random.default_rng(2), 120))
    sampler = HFSampler(student, precision="float32", vocab=VOCAB, eos_ids=[EOS], seed=0)
    sampling = Sampling(
        max_new_tokens=6, temperature=1.0, top_p=1.0, record_threshold=0.01, record_max=8, record_tail_samples=0
    )
    batches = plan_batches(prompts, 1, 100, name="s/r1")
    written = [
        rollout for batch in batches for rollout in collect_rollouts(batch, sampler, sampling, str, source="student")
    ]
    own = scored(written, teacher, tmp_path / "own")
    corpus = scored(reference_rollouts(prompts), teacher, tmp_path / "corpus")

    run = training_jobs.training_run(
        student, range(STEPS), objective=OBJECTIVE, optimizer=OPTIMIZER, batches=MIX, vocab_size=VOCAB
    )
    model, state = open_run(run, tmp_path / "run")
    planned = plan_steps(own, corpus, MIX, key=(0,), steps=run.steps, replay=0.0)
    training_jobs.take_steps(model, iter_batches(planned, temperature=1.0, column=0), state, run, tmp_path / "run")
    losses = [row["loss"] for row in state.rows]
    before, after = copied(student), copied(checkpoints(tmp_path / "run")[0] / "model")
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 3
    assert after > before + 0.3
