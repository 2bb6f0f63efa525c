"""bench.store.far_student: every divergence trains in every configuration, on models small enough for a test."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.store.far_student import (
    _MEASURED,
    RULES,
    Setting,
    Texts,
    averaged,
    configurations,
    measure,
    run,
    stored,
    write_round,
)
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer
from pipeline.scoring.scorer import TruncationParams
from tests.factories import prompt

TRUNCATION = TruncationParams(threshold=0.02, max_entries=8, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0,))


@pytest.fixture(scope="module")
def setting(teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    prompts = [prompt(f"p{index}", [256, 60 + index], reference_ids=[257]) for index in range(6)]
    sizes: dict[str, Any] = {"steps": 2, "refresh": 1, "batch": 4, "samples": 2, "tokens": 5}
    return Setting(
        teacher=lm.load_model(teacher_dir),
        tokenizer=load_tokenizer(teacher_dir),
        train=prompts[:4],
        heldout=prompts[4:],
        scratch=tmp_path_factory.mktemp("far"),
        codec="sqrt8",
        learning_rate=1e-3,
        **sizes,
    )


@pytest.fixture(scope="module")
def first(setting: Setting, student_dir: Path) -> Texts:
    return write_round(setting, student_dir, 0, seed=0, student_support=True)


@pytest.mark.parametrize("name", _MEASURED)
def test_every_configuration_trains(name: str, setting: Setting, first: Texts, student_dir: Path) -> None:
    before = measure(setting, student_dir, seed=0)
    for configuration in configurations(TRUNCATION):
        if name in configuration.divergences:
            after = measure(setting, run(setting, configuration, name, student_dir, first, seed=0), seed=0)
            assert all(value > 0 and value < 100 for value in after.values())
            assert after != before


def test_the_completions_of_a_prompt_are_next_to_each_other(setting: Setting, first: Texts) -> None:
    assert len(first.rollouts) == setting.refresh * setting.batch
    pairs = zip(first.rollouts[::2], first.rollouts[1::2], strict=True)
    assert all(first.prompt_id == second.prompt_id for first, second in pairs)
    assert [len(states) for states in first.teacher] == [len(rollout.completion_ids) for rollout in first.rollouts]


def test_only_renormalising_is_not_zero_for_equal_models(setting: Setting, first: Texts) -> None:
    """For a student that equals its teacher, the gradient of every rule but renormalising is zero."""
    head = lm.head_of(setting.teacher, 260)
    teacher_ND = torch.cat(first.teacher)
    (bucket,) = (entry for entry in configurations(TRUNCATION) if entry.name == "bucket")
    rows = stored(bucket, first.rollouts, first.teacher, head, "topk")
    assert (rows.tail_N > 0.05).any()
    logits_NV = head(teacher_ND)
    values = {
        name: rule(_MEASURED["reverse_kl"], logits_NV, logits_NV.log_softmax(-1), rows).abs().max().item()
        for name, rule in RULES.items()
    }
    assert values["dense"] < 1e-5
    assert max(values["conditional"], values["truncate"]) < 0.01 < values["renormalise"]


def test_rows_are_means_over_seeds() -> None:
    run = {"name": "jsd: bucket", "divergence": "jsd", "configuration": "bucket", "seed": 0}
    rows = [run | {"forward_kl": 1.0, "reverse_kl": 2.0, "jsd": value} for value in (0.2, 0.4)]
    (row,) = averaged(rows)
    assert (row["seeds"], row["forward_kl"]) == (2, 1.0)
    assert (row["jsd"], row["range"]) == (pytest.approx(0.3), pytest.approx(0.2))
