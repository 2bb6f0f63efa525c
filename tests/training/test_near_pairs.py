"""The control of learning rates: a teacher that teaches itself, so that every gradient is noise."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.evaluation.agreement import ModelPair, compare, concatenate
from pipeline.evaluation.completions import complete
from pipeline.models import language_model as lm
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.yaml_files import read_yaml
from pipeline.training.batches import Pool, iter_batches, make_pool, plan_steps
from pipeline.training.checkpoint import checkpoints, open_run
from tests.factories import batch_params, evaluation_params, objective_params
from tests.training_jobs import EOS, PROMPTS, VOCAB, optimizer, scored, take_steps, training_run, written_by

ROOT = Path(__file__).parents[2]
STEPS = range(12)
OWN = batch_params(batch_size=6, micro_batch_size=6, student_fraction=1.0, shuffle_window=24)
MUCH = 1e-2  # a learning rate that moves any model


@pytest.fixture(scope="module")
def teacher(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = {"vocab": VOCAB, "bos_token_id": 38, "eos_token_id": EOS, "pad_token_id": EOS}
    return make_model_dir(tmp_path_factory.mktemp("model") / "teacher", seed=1, initializer_range=0.5, **ids)


@pytest.fixture(scope="module")
def own(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """The scores of the teacher's completions, as those of a student."""
    rollouts = written_by(teacher, 6, tokens=8, record_tail_samples=4)
    return scored(rollouts, teacher, tmp_path_factory.mktemp("own") / "segment")


def taught_itself(teacher: Path, own: Pool, scratch: Path, divergence: str, rate: float) -> Path:
    """Return the teacher after some steps on its own scores, at the learning rate `rate`."""
    p = optimizer(learning_rate=rate, warmup_steps=0, save_steps=STEPS.stop, weight_decay=0.0)
    objective = objective_params(divergence)
    run = training_run(teacher, STEPS, optimizer=p, objective=objective, batches=OWN)
    scratch.mkdir()
    model, state = open_run(run, scratch)
    planned = plan_steps(own, make_pool([], own.scores, OWN), OWN, key=run.key, steps=STEPS, replay=0.0)
    take_steps(model, iter_batches(planned, temperature=1.0, column=0), state, run, scratch)
    return checkpoints(scratch)[-1] / "model"


def distance(student: Path, teacher: Path) -> float:
    """Return the forward KL on completions that the student samples, in nats per token."""
    p = evaluation_params(prompts=len(PROMPTS), batch_size=len(PROMPTS), max_new_tokens=16, recorded_prompts=0)
    sampler = HFSampler(student, precision="float32", vocab=VOCAB, eos_ids=[EOS], seed=1)
    completions = complete(PROMPTS, sampler, p, title="complete").sampled
    models = ModelPair(student=student, teacher=teacher, vocab_size=VOCAB)
    return concatenate(compare(models, PROMPTS, completions, p, title="compare")).means()["forward_kl"]


def rounded(teacher: Path, folder: Path) -> Path:
    """Return a copy of the teacher whose weights are rounded to bfloat16, as models are usually stored."""
    model = lm.load_model(teacher)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    lm.save_model(model, folder)
    return folder


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd", "reverse_kl"])
def test_a_teacher_that_teaches_itself_stays_itself_at_the_rate_of_near_pairs(
    teacher: Path, own: Pool, divergence: str, tmp_path: Path
) -> None:
    """It moves less than rounding moves it, and a high rate moves it much further."""
    rate = read_yaml(ROOT / "presets/gsm8k-qwen2.5.yaml")["optimizer"]["learning_rate"]
    noise = distance(rounded(teacher, tmp_path / "rounded"), teacher)
    at_rate, at_high_rate = (
        distance(taught_itself(teacher, own, tmp_path / f"{value}", divergence, value), teacher)
        for value in (rate, MUCH)
    )
    assert distance(teacher, teacher) == 0
    assert at_rate < noise
    assert at_high_rate > 10 * noise
