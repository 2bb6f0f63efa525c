"""Sampling the completions of a rollouts file, interrupted and not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.files import read_rollouts
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, reference_rollouts
from pipeline.metrics.rewards import reward_rollouts
from pipeline.models.language_model import load_model
from pipeline.rollout import sample as module
from pipeline.rollout.collect import RolloutParams, collect_rollouts
from pipeline.rollout.sample import SamplingJob, write_rollouts
from pipeline.runtime.errors import DataError
from tests.factories import answered_prompts

SAMPLING = Sampling(
    max_new_tokens=6, temperature=1.0, top_p=1.0, record_threshold=0.01, record_max=4, record_tail_samples=0
)
PARAMS = RolloutParams(prompts=5, samples_per_prompt=1, batch_size=2, precision="float32", sampling=SAMPLING)
OUT = Path("out/rollouts.parquet")


PROMPTS = answered_prompts()


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_sampled(model: Path, prompts: Sequence[Prompt] = PROMPTS, weights: dict[str, float] | None = None) -> int:
    """Write one reference and sampled rollouts to OUT, as stages do, and return the number of tokens sampled."""
    job = SamplingJob(model=model, prompts=prompts, samples=1, source="student", name="small/r1", seed=0, params=PARAMS)

    def finish(sampled: list[Rollout]) -> list[Rollout]:
        rewarded = reward_rollouts(sampled, prompts=prompts, weights=weights or {})
        return [*reference_rollouts(PROMPTS[:1]), *rewarded]

    return write_rollouts(job, OUT, finish)


def test_sampling_that_was_interrupted_repeats_no_batch_and_gives_the_same(
    student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = write_sampled(student_dir)
    whole = read_rollouts(OUT)
    assert [rollout.source for rollout in whole] == ["dataset"] + ["student"] * 9
    assert tokens == sum(len(rollout.completion_ids) for rollout in whole[1:])
    batches: list[int] = []

    def counting(batch: Any, *rest: Any, **named: Any) -> list[Rollout]:
        batches.append(len(batch))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return collect_rollouts(batch, *rest, **named)

    monkeypatch.setattr(module, "collect_rollouts", counting)
    OUT.unlink()
    with pytest.raises(KeyboardInterrupt):
        write_sampled(student_dir)
    assert not OUT.exists()
    assert write_sampled(student_dir) == tokens
    assert batches == [2, 2, 2, 2, 2, 1]  # the first two batches were read, the third was sampled again
    assert read_rollouts(OUT) == whole


def test_prompts_beyond_the_context_are_refused_before_anything_is_written(student_dir: Path) -> None:
    with pytest.raises(DataError) as caught:
        write_sampled(student_dir, [replace(PROMPTS[0], prompt_ids=[65] * 507)])
    assert str(caught.value) == (
        "sampling: expected at most 512 tokens of prompt and completion (the model's context), got 513; "
        "lower task.max_prompt_tokens or max_new_tokens"
    )
    assert not Path("out").exists()


def test_the_reward_is_stored_with_the_rollout_and_follows_its_weights(student_dir: Path) -> None:
    for weights in ({"length": 0.5}, {"length": 2.0}):
        write_sampled(student_dir, weights=weights)
        reference, *sampled = read_rollouts(OUT)
        assert reference.reward is None
        assert [rollout.reward for rollout in sampled] == [
            weights["length"] * len(rollout.completion_ids) for rollout in sampled
        ]


def test_a_model_that_never_ends_is_reported_before_anything_trains(
    student_dir: Path, make_model_dir: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_sampled(student_dir)
    assert "warning" not in capsys.readouterr().err  # one completion in nine ended
    never = make_model_dir(Path("never"), seed=2)
    model = load_model(never)
    model.get_input_embeddings().weight.data[[257, 258]] = 0.0  # the ends, whose logits are then 0
    model.model.norm.weight.data *= 10
    model.save_pretrained(never)
    write_sampled(never)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "warning: small/r1: 0 of 9 completions ended (with <end>, </s>) within max_new_tokens (6): "
        "raise it, or fine-tune this model on references first (sft)"
    )


def test_without_prompts_no_model_is_loaded(tmp_path: Path) -> None:
    assert write_sampled(tmp_path / "nowhere", []) == 0
    assert read_rollouts(OUT) == reference_rollouts(PROMPTS[:1])
