"""bench.store.far_student: every way of every divergence trains, on models small enough for a test."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.store.far_student import _MEASURED, RULES, Setting, Texts, averaged, measure, run, stored, ways, write_round
from pipeline.core.types import Prompt
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer
from pipeline.scoring.scorer import TruncationParams

KEPT = TruncationParams(threshold=0.02, max_entries=8, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0,))


@pytest.fixture(scope="module")
def setting(teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    prompts = [
        Prompt(
            prompt_id=f"p{one}",
            split="train",
            prompt_ids=[256, 60 + one],
            reference_ids=[257],
            prompt_text="",
            references=[""],
        )
        for one in range(6)
    ]
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
    return write_round(setting, student_dir, 0, seed=0, union=True)


@pytest.mark.parametrize("name", _MEASURED)
def test_every_way_trains(name: str, setting: Setting, first: Texts, student_dir: Path) -> None:
    before = measure(setting, student_dir, seed=0)
    for way in ways(KEPT):
        if name in way.divergences:
            found = measure(setting, run(setting, way, name, student_dir, first, seed=0), seed=0)
            assert all(value > 0 and value < 100 for value in found.values())
            assert found != before


def test_a_round_has_the_completions_of_a_prompt_side_by_side(setting: Setting, first: Texts) -> None:
    assert len(first.rollouts) == setting.refresh * setting.batch
    pairs = zip(first.rollouts[::2], first.rollouts[1::2], strict=True)
    assert all(one.prompt_id == other.prompt_id for one, other in pairs)
    assert [len(one) for one in first.teacher] == [len(one.completion_ids) for one in first.rollouts]


def test_the_rules_of_others_differ_where_theory_says_so(setting: Setting, first: Texts) -> None:
    """For a student that equals its teacher: renormalising is not zero there, the others are."""
    head = lm.head_of(setting.teacher, 260)
    teacher_ND = torch.cat(first.teacher)
    (bucket,) = (way for way in ways(KEPT) if way.name == "bucket")
    rows = stored(bucket, first.rollouts, first.teacher, head, "topk")
    assert (rows.tail_N > 0.05).any()
    logits_NV = head(teacher_ND)
    found = {
        name: rule(_MEASURED["reverse_kl"], logits_NV, logits_NV.log_softmax(-1), rows).abs().max().item()
        for name, rule in RULES.items()
    }
    assert found["dense"] < 1e-5
    assert max(found["conditional"], found["truncate"]) < 0.01 < found["renormalise"]


def test_rows_are_means_over_seeds() -> None:
    one = {"name": "jsd: bucket", "divergence": "jsd", "support": "bucket", "seed": 0}
    rows = [one | {"forward_kl": 1.0, "reverse_kl": 2.0, "jsd": value} for value in (0.2, 0.4)]
    (row,) = averaged(rows)
    assert (row["seeds"], row["forward_kl"]) == (2, 1.0)
    assert (row["jsd"], row["range"]) == (pytest.approx(0.3), pytest.approx(0.2))
