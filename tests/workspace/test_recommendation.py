"""pipeline.workspace.recommendation: rates by the kind of student, and sizes that fit any number of cases."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.workspace.recommendation import Facts, job_changes, learning_rate, plan_job, reasons

FACTS = Facts(
    kind="ready-made",
    lora=False,
    separate=False,
    distance=None,
    weights=360_000_000,
    train=1000,
    heldout=100,
    prompt=128,
    completion=256,
    device="cpu",
)


def with_facts(**changes: Any) -> Facts:
    return replace(FACTS, **changes)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, 1e-6),
        ({"distance": 0.2}, 1e-6),
        ({"distance": 2.0}, 2e-5),
        ({"separate": True}, 3e-4),
        ({"separate": True, "lora": True}, 2e-4),
        ({"lora": True}, 1e-5),
        ({"lora": True, "distance": 2.0}, 2e-4),
        ({"lora": True, "kind": "cut"}, 2e-4),
        ({"kind": "cut"}, 2e-4),
        ({"kind": "fresh"}, 3e-4),
        ({"kind": "fresh", "weights": 5_000_000}, 1e-3),
    ],
)
def test_the_kind_of_student_decides_the_learning_rate(changes: dict[str, Any], rate: float) -> None:
    assert learning_rate(with_facts(**changes))[0] == rate


@pytest.mark.parametrize("train", [1, 2, 54, 499, 5_000, 100_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_never_needs_more_cases_than_there_are(train: int, device: str) -> None:
    plan = plan_job(with_facts(train=train, heldout=max(1, train // 10), device=device))
    assert 1 <= plan.per_round <= plan.prompts <= train
    assert 1 <= plan.corpus <= plan.prompts
    assert 1 <= plan.evaluated <= plan.heldout <= max(1, train // 10)
    # A round has a completion for each slot that the student fills.
    assert plan.per_round * plan.samples >= plan.refresh * plan.batch // 2
    assert (plan.rounds - 1) * plan.refresh < plan.steps <= plan.rounds * plan.refresh


def test_sizes_grow_with_the_data_up_to_a_limit() -> None:
    plans = [plan_job(with_facts(train=train, heldout=train, device="cuda")) for train in (54, 1_000, 20_000, 100_000)]
    for name in ("prompts", "steps", "batch", "corpus", "evaluated"):
        sizes = [getattr(plan, name) for plan in plans]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]
    assert plans[-1] == plans[-2]
    assert (plans[0].steps, plans[-1].steps) == (162, 1000)


def test_a_fresh_student_learns_from_the_corpus_first() -> None:
    facts = with_facts(kind="fresh")
    plan = plan_job(facts)
    changes = job_changes(facts, plan, micro_batch=4)
    assert changes["batches", "student_fraction"] == {"start": 0.0, "end": 0.5, "steps": plan.steps // 2}
    assert job_changes(FACTS, plan, micro_batch=4)["batches", "student_fraction"] == 0.5
    assert reasons(facts, plan, changes)[3].endswith("each used about 2.5 times")


def test_a_near_student_keeps_the_safe_rate_and_is_told_of_larger_ones() -> None:
    rate, why = learning_rate(with_facts(distance=0.19))
    assert rate == 1e-6
    assert why.startswith("0.19 nats from its teacher: safe for models of billions")
    assert "1e-5 to 1e-4" in why


def test_the_rate_stays_above_zero_and_every_choice_has_a_reason() -> None:
    plan = plan_job(FACTS)
    changes = job_changes(FACTS, plan, micro_batch=8)
    assert changes["optimizer", "decay_steps"] > plan.steps
    assert changes["rollout", "sampling", "max_new_tokens"] == changes["evaluation", "max_new_tokens"] == 256
    lines = reasons(FACTS, plan, changes)
    # Half of 200 batches of 16, spread over three texts of each prompt.
    assert (plan.steps, plan.batch, plan.corpus) == (200, 16, 267)
    assert lines[3].endswith("each used about 2 times")
    assert lines[0].startswith("learning rate 1e-06, linear, ")
    assert [line.partition(":")[0].split()[0] for line in lines] == [
        *("learning", "steps", "rounds", "corpus", "evaluation")
    ]
