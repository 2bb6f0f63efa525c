"""Metrics of completions with their standard errors, and the warning about completions that were cut."""

import pytest

from pipeline.evaluation.completions import Completions, completion_metrics, cut_warning
from pipeline.evaluation.measurements import Measurements
from pipeline.rollout.sampler import Sampled
from pipeline.tasks import find_task
from tests.factories import prompt

PROMPTS = [prompt("a", [1], references=["1"]), prompt("b", [2], references=["2"]), prompt("c", [3], references=["3"])]


def completion(token: int, *, finished: bool) -> Sampled:
    return Sampled(token_ids=[token] * (token + 1), logp=[-0.5] * (token + 1), finished=finished)


def completions(*finished: bool) -> Completions:
    """Return completions that answer with 1, 2 and 2: two of three are right."""
    sampled = [completion(min(index + 1, 2), finished=end) for index, end in enumerate(finished)]
    return Completions(at=dict.fromkeys((1.0, 0.0, 0.6), sampled))


def measured(count: int, weights: dict[str, float], teacher: dict[str, str] | None = None) -> Measurements:
    written = completions(*[True, False, False][:count])
    task = find_task("gsm8k")
    metrics, judged = completion_metrics(task, PROMPTS[:count], written, lambda ids: str(ids[0]), weights, teacher)
    assert [answer.text for answer in judged] == ["1", "2", "2"][:count]
    return metrics


def test_each_metric_has_its_error() -> None:
    """Two of three answers are right, and one of three is finished: each share has an error of sqrt(1/3 2/3 / 2)."""
    share = pytest.approx((1 / 9) ** 0.5)
    metrics = measured(3, {"exact_match": 3.0})
    assert {name: metric.error for name, metric in metrics.items() if metric.error} == {
        "exact_match": share,
        "exact_match_at_0.6": share,
        "exact_match_at_1": share,
        "eos_share": share,
        "reward": pytest.approx(1.0),
    }
    values = {"exact_match": 2 / 3, "eos_share": 1 / 3, "reward": 2.0, "entropy": 0.5, "distinct_bigrams": 1.0}
    assert {name: metrics[name].value for name in values} == pytest.approx(values)


def test_the_teachers_completions_are_references_of_their_own() -> None:
    likeness = measured(3, {}, teacher={"a": "1", "b": "2 3", "c": "4"})["teacher_rouge_l"]
    # "2" has half of the words of "2 3": a precision of 1 and a recall of 1/2.
    assert likeness.value == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert "teacher_rouge_l" not in measured(3, {})


def test_the_entropy_is_a_mean_over_tokens() -> None:
    written = Completions(at={t: [completion(1, finished=True), completion(4, finished=True)] for t in (0.0, 1.0)})
    written.sampled[1].logp[:] = [-1.0] * 5
    metrics, _ = completion_metrics(find_task("gsm8k"), PROMPTS[:2], written, str, {}, None)
    assert metrics["entropy"].value == pytest.approx((2 * 0.5 + 5 * 1.0) / 7)


def test_a_warning_where_most_completions_were_cut() -> None:
    assert cut_warning(completions(True, False), 40) is None
    message = "2 of 3 sampled completions were cut at evaluation.max_new_tokens (40); raise it, or train longer"
    assert cut_warning(completions(True, False, False), 40) == message
