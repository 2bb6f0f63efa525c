"""Whether a student became worse or worse in part, by which rule, and what the message says."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.measurements import Change, of_mean
from pipeline.evaluation.verdict import Verdict, judge_student, trained_measures
from tests.factories import prompt

ROWS = {  # bench/evidence/rows: the start of `repair` with seed 1, and on-policy forward KL, with assumed errors
    "exact_match": (0.678, 0.594, 0.03),
    "exact_match_at_1": (0.559, 0.331, 0.034),
    "forward_kl": (0.254, 0.230, 0.007),
    "reverse_kl": (0.339, 0.600, 0.04),
    "reference_nll": (0.062, 0.124, 0.01),
}


def change(difference: float, error: float | None = 0.1) -> Change:
    return Change(difference=difference, error=error, goal=None, share=None, share_error=None)


def parameters(
    name: str = "forward_kl",
    *,
    alpha: float = 1.0,
    cross_entropy: float = 0.0,
    own: float | dict[str, float] = 1.0,
    weights: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Return the parameters of a round; with `own` the share of student rollouts."""
    return {
        "objective": {"divergence": {"name": name}, "alpha": alpha, "cross_entropy": cross_entropy},
        "batches": {"student_fraction": own, "corpus_weights": weights},
        "optimizer": {"learning_rate": 1e-5},
    }


def verdict(trained: dict[str, Any], prompts: int = 1000, **changes: Change) -> Verdict:
    ids = [prompt(str(index), [1]) for index in range(prompts)]
    before = {name: of_mean(ids, [ROWS.get(name, (0.5,))[0]] * prompts) for name in changes}
    return judge_student("small r1", "exact_match", before, changes, trained)


REFERENCES, GENERATIONS = {"dataset": 1.0, "teacher": 0.0}, {"dataset": 0.0, "teacher": 1.0}
BOTH = ["forward_kl", "reverse_kl"]


@pytest.mark.parametrize(
    ("trained", "measures"),
    [
        (parameters("forward_kl"), ["forward_kl"]),
        (parameters("jsd"), BOTH),
        (parameters("reverse_kl", alpha=0.5), ["reverse_kl", "reward"]),
        (parameters("reverse_kl", alpha=0.0), ["reward"]),
        (parameters(own=0.5, cross_entropy=0.5), ["forward_kl", "reference_nll"]),
        (parameters(own={"start": 0.0, "end": 1.0, "steps": 9}, cross_entropy=1.0), ["forward_kl", "reference_nll"]),
        (parameters(own=1.0, cross_entropy=1.0), ["forward_kl"]),
        # The methods `sft` and `sequence-level`: the divergence has weight 0.
        (parameters(own=0.0, cross_entropy=1.0, weights=REFERENCES), ["reference_nll"]),
        (parameters(own=0.0, cross_entropy=1.0, weights=GENERATIONS), []),
    ],
)
def test_what_the_loss_contains_has_its_measures(trained: dict[str, Any], measures: list[str]) -> None:
    assert trained_measures(trained) == measures


def test_the_message_has_the_changes_with_their_errors_and_what_to_change() -> None:
    of_rows = {name: change(after - before, error) for name, (before, after, error) in ROWS.items()}
    assert verdict(parameters(), **of_rows) == Verdict(
        worse=True,
        message="small r1 is worse than before training: "
        "exact_match 0.678 -> 0.594 (difference -0.084 ± 0.030), "
        "exact_match_at_1 0.559 -> 0.331 (difference -0.228 ± 0.034), "
        "reverse_kl 0.339 -> 0.600 (difference +0.261 ± 0.040), "
        "reference_nll 0.062 -> 0.124 (difference +0.062 ± 0.010); "
        "better: forward_kl 0.254 -> 0.230 (difference -0.024 ± 0.007); "
        "not in the loss: reverse_kl, reference_nll; "
        "lower optimizer.learning_rate (1e-05, perhaps to a tenth), take fewer schedule.total_steps, or set "
        "objective.divergence.name to reverse_kl or jsd, because forward KL on own completions flattens it; "
        "see docs/training.md#learning-rates",
    )


@pytest.mark.parametrize(
    ("trained", "worse", "remedy"),
    [
        (parameters(), "forward_kl", "change objective.divergence (forward_kl)"),
        (parameters(), "reverse_kl", "set objective.divergence.name to reverse_kl or jsd"),
        (parameters("jsd"), "reverse_kl", "change objective.divergence (jsd)"),
        (parameters(own=0.0), "reverse_kl", "change objective.divergence (forward_kl)"),
        (parameters(own=0.0, cross_entropy=1.0), "forward_kl", "lower objective.cross_entropy (1)"),
        (parameters(alpha=0.0), "forward_kl", "raise objective.alpha (0)"),
    ],
)
def test_the_remedy_fits_the_loss(trained: dict[str, Any], worse: str, remedy: str) -> None:
    message = verdict(trained, **{worse: change(0.5)}).message
    assert message and f"or {remedy}" in message


@pytest.mark.parametrize(
    ("trained", "changes", "outcome"),
    [
        (parameters(), {"forward_kl": 0.5}, "worse"),
        (parameters(), {"forward_kl": 0.5, "exact_match": 0.5}, "worse"),
        (parameters(), {"forward_kl": -0.5, "exact_match": -0.5}, "worse"),
        (parameters(), {"forward_kl": -0.5, "exact_match_at_1": -0.5, "exact_match": 0.1}, "worse"),
        (parameters(), {"forward_kl": -0.5, "exact_match_at_1": -0.5, "exact_match": 0.5}, "in part"),
        (parameters(), {"forward_kl": -0.5, "reverse_kl": 0.5}, "in part"),
        (parameters(), {"reference_nll": 0.5}, "in part"),
        (parameters("jsd"), {"forward_kl": 0.5, "reverse_kl": 0.1}, "worse"),
        (parameters("jsd"), {"forward_kl": 0.5, "reverse_kl": -0.5}, "in part"),
        (parameters("reverse_kl", alpha=0.5), {"reverse_kl": 0.5, "reward": 0.5}, "in part"),
        (parameters("reverse_kl", alpha=0.5), {"reverse_kl": 0.1, "reward": -0.5}, "worse"),
        (parameters(), {"reward": -0.5}, "in part"),
        (parameters(), {"forward_kl": -0.5, "exact_match": 0.5, "reference_nll": 0.1}, None),
        (parameters(), {"forward_kl": 0.1, "entropy": 9.0, "distinct_bigrams": -9.0}, None),
    ],
)
def test_the_task_and_the_loss_make_a_student_worse_and_other_measures_in_part(
    trained: dict[str, Any], changes: dict[str, float], outcome: str | None
) -> None:
    judged = verdict(trained, **{name: change(difference) for name, difference in changes.items()})
    assert judged.worse == (outcome == "worse")
    assert (judged.message is None) == (outcome is None)
    if judged.message:
        assert ("is worse in part: " in judged.message) == (outcome == "in part")


@pytest.mark.parametrize(
    ("prompts", "measures", "errors"),
    [
        # Quantiles of Student's t at 1 - 0.025 / measures.
        (1000, ["forward_kl"], 1.96),
        (1000, [*BOTH, "reference_nll", "exact_match", "exact_match_at_1"], 2.58),
        (20, ["forward_kl"], 2.09),
        (20, [*BOTH, "reference_nll", "exact_match", "exact_match_at_1"], 2.86),
        (4, ["forward_kl"], 3.18),
    ],
)
def test_the_more_measures_and_the_fewer_prompts_the_larger_the_difference(
    prompts: int, measures: list[str], errors: float
) -> None:
    for factor, is_worse in ((0.97, False), (1.03, True)):
        changes = {name: change(0.0) for name in measures} | {"forward_kl": change(0.1 * errors * factor)}
        assert verdict(parameters(), prompts, **changes).worse == is_worse


def test_a_difference_of_every_prompt_is_sure_and_one_of_unknown_error_is_nothing() -> None:
    assert verdict(parameters(), exact_match=change(-1.0, error=0.0)).worse
    assert verdict(parameters(), exact_match=change(0.0, error=0.0)) == Verdict(worse=False)
    assert verdict(parameters(), 1, forward_kl=change(9.0, error=None)) == Verdict(worse=False)


def test_a_student_that_did_not_change_is_seldom_warned_of() -> None:
    prompts, runs = 20, 4000
    draws = np.random.default_rng(0).normal(size=(runs, len(ROWS), prompts))
    means, errors = draws.mean(axis=2), draws.std(axis=2, ddof=1) / np.sqrt(prompts)
    false_alarms = [
        verdict(parameters(), prompts, **{name: change(*pair) for name, *pair in zip(ROWS, *run, strict=True)}).message
        for run in zip(means.tolist(), errors.tolist(), strict=True)
    ]
    share = sum(message is not None for message in false_alarms) / runs
    assert share <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / runs)
    # Two standard errors for each measure would warn of a seventh of these students.
    assert (means > 2 * errors).any(axis=1).mean() > 0.1
