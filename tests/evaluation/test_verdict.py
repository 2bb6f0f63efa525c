"""Whether a student became worse, judged by what it was trained on, and what the message says."""

from typing import Any

import pytest

from pipeline.evaluation.measurements import Change, of_mean
from pipeline.evaluation.verdict import judged_measures, worse_message
from tests.factories import prompt


def change(difference: float, error: float | None = 0.1) -> Change:
    return Change(difference=difference, error=error, goal=None, share=None, share_error=None)


def parameters(name: str = "forward_kl", *, alpha: float = 1.0, cross_entropy: float = 0.0) -> dict[str, Any]:
    objective = {"divergence": {"name": name}, "alpha": alpha, "cross_entropy": cross_entropy}
    return {"objective": objective, "optimizer": {"learning_rate": 1e-5}}


BEFORE = {name: of_mean([prompt("a", [1])], [0.174]) for name in ("forward_kl", "reverse_kl", "reward")}


def message(trained: dict[str, Any], **changes: Change) -> str | None:
    return worse_message("small r1", BEFORE, changes, trained)


@pytest.mark.parametrize(
    ("trained", "measures"),
    [
        (parameters("forward_kl"), ["forward_kl"]),
        (parameters("reverse_kl"), ["reverse_kl"]),
        (parameters("jsd"), ["forward_kl", "reverse_kl"]),
        (parameters("forward_kl", cross_entropy=0.5), ["forward_kl", "reference_nll"]),
        (parameters("reverse_kl", alpha=0.5), ["reverse_kl", "reward"]),
        (parameters("reverse_kl", alpha=0.0), ["reward"]),
    ],
)
def test_a_student_is_judged_by_what_it_was_trained_on(trained: dict[str, Any], measures: list[str]) -> None:
    assert judged_measures(trained["objective"]) == measures


def test_the_message_has_the_change_with_its_error_and_what_to_change() -> None:
    assert message(parameters(), forward_kl=change(0.065, 0.02), reverse_kl=change(9.0)) == (
        "small r1 is worse than before training: forward_kl 0.174 -> 0.239 (difference +0.065 ± 0.020); "
        "lower optimizer.learning_rate (1e-05, perhaps to a tenth), take fewer schedule.total_steps, "
        "or change objective.divergence (forward_kl); see docs/training.md#learning-rates"
    )


def test_worse_is_more_than_two_errors() -> None:
    assert message(parameters(), forward_kl=change(0.19)) is None
    assert message(parameters(), forward_kl=change(0.21)) is not None
    assert message(parameters(), forward_kl=change(-0.21)) is None
    assert message(parameters(), forward_kl=change(9.0, error=None)) is None


def test_a_measure_that_became_better_outweighs_one_that_became_worse() -> None:
    assert message(parameters("jsd"), forward_kl=change(0.3), reverse_kl=change(0.1)) is not None
    assert message(parameters("jsd"), forward_kl=change(0.3), reverse_kl=change(-0.3)) is None
    trained = parameters("reverse_kl", alpha=0.5)
    assert message(trained, reverse_kl=change(0.3), reward=change(0.3)) is None
    assert message(trained, reverse_kl=change(0.1), reward=change(-0.3)) is not None
