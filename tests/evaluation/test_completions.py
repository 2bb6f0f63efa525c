"""Metrics of completions with their standard errors, and the warning about completions that were cut."""

import pytest

from pipeline.evaluation.completions import Completions, completion_metrics, cut_warning
from pipeline.rollout.sampler import Sampled
from pipeline.tasks import find_task
from tests.factories import prompt

PROMPTS = [prompt("a", [1], references=["1"]), prompt("b", [2], references=["2"]), prompt("c", [3], references=["3"])]


def completion(token: int, *, finished: bool) -> Sampled:
    return Sampled(token_ids=[token], logp=[], finished=finished)


def completions(*finished: bool) -> Completions:
    """Return completions that answer with 1, 2 and 2: two of three are right."""
    sampled = [completion(min(index + 1, 2), finished=end) for index, end in enumerate(finished)]
    return Completions(sampled=sampled, greedy=sampled)


def measured(count: int, weights: dict[str, float]) -> dict[str, float]:
    written = completions(*[True, False, False][:count])
    return completion_metrics(find_task("gsm8k"), PROMPTS[:count], written, lambda ids: str(ids[0]), weights).errors


def test_each_metric_has_its_error() -> None:
    """Two of three answers are right, and one of three is finished: each share has an error of sqrt(1/3 2/3 / 2)."""
    share = pytest.approx((1 / 9) ** 0.5)
    assert measured(3, {"exact_match": 3.0}) == {
        "exact_match": share,
        "sampled_exact_match": share,
        "eos_share": share,
        "reward": pytest.approx(1.0),
    }


def test_a_single_prompt_has_no_error() -> None:
    assert measured(1, {"exact_match": 1.0}) == {}


def test_a_warning_where_most_completions_were_cut() -> None:
    assert cut_warning(completions(True, False), 40) is None
    message = "2 of 3 sampled completions were cut at evaluation.max_new_tokens (40); raise it, or train longer"
    assert cut_warning(completions(True, False, False), 40) == message
