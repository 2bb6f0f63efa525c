"""Values of the reward functions, and the errors of functions that fail."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.types import Prompt, Rollout
from pipeline.metrics.rewards import REWARDS, Answer, completion_rewards, find_reward, reward_rollouts, weighted_reward
from pipeline.runtime.errors import DataError, ParameterError
from tests.factories import rollout

MODULE = """
class NoFunction: pass
VALUE = 3
def brevity(answer): return -len(answer.text)
def silent(answer): return None
def endless(answer): return float("inf")
def asked(answer): return answer.prompt.count("?")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a user's module."""
    (tmp_path / "my_rewards.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "my_broken.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_rewards"


def answer(text: str, references: Sequence[str] = ("The sum is 4.",)) -> Answer:
    return Answer(prompt="2 and 2?", text=text, references=references, tokens=len(text.split()), finished=True)


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_likes_the_reference_at_least_as_well_as_a_shorter_text(name: str) -> None:
    good, bad = (find_reward(name)(answer(text)) for text in ("The sum is 4.", "Who knows?"))
    assert good >= bad
    assert isinstance(good, int | float)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("exact_match", "It is 4.0", 1),
        ("exact_match", "It is 5", 0),
        ("rouge_l", "The sum is 4.", 1),
        ("rouge_l", "nothing alike", 0),
        ("bleu", "The sum is 4.", 1),
        ("length", "three words here", 3),
        ("finished", "x", 1),
    ],
)
def test_values(name: str, text: str, value: float) -> None:
    assert weighted_reward({name: 1.0})(answer(text)) == pytest.approx(value)


def test_one_of_several_references_is_enough() -> None:
    for name in ("exact_match", "rouge_l", "bleu"):
        assert weighted_reward({name: 1.0})(answer("4", ["It is four", "4"])) == pytest.approx(1)


def test_bleu_orders_near_misses() -> None:
    """Neither text shares four consecutive words with the reference, so plain BLEU would be zero for both."""
    near, far = (find_reward("bleu")(answer(text)) for text in ("The sum was 4.", "It is so"))
    assert near > far > 0


def test_the_reward_is_the_weighted_sum_of_functions_by_name_and_of_the_users(mine: str) -> None:
    value = weighted_reward({"exact_match": 2.0, "length": -0.5, f"{mine}:brevity": 0.1})
    assert value(answer("so it is 4")) == pytest.approx(2 - 2 - 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "rouge",
            "rouge: expected one of: exact_match, rouge_l, bleu, length, finished, or module:function, got 'rouge'",
        ),
        ("my_rewards:none", "my_rewards:none: expected a function that can be imported, got AttributeError: module"),
        ("my_rewards:", "my_rewards:: expected a function that can be imported, got AttributeError: module"),
        ("nowhere:f", "nowhere:f: expected a function that can be imported, got ModuleNotFoundError: No module"),
        ("my_broken:f", "my_broken:f: expected a function that can be imported, got ModuleNotFoundError: No module"),
        (":f", ":f: expected a function that can be imported, got ValueError: Empty module name"),
        ("my_rewards:VALUE", "my_rewards:VALUE: expected a function, got int"),
    ],
)
def test_a_function_that_cannot_be_imported_is_reported_in_one_line(mine: str, name: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        weighted_reward({"length": 1.0, name: 1.0})
    assert str(caught.value).startswith(f"reward.{message}")
    assert str(caught.value).endswith("; fix params.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "got"), [("silent", r"None \(NoneType\)"), ("endless", r"inf \(float\)")])
def test_a_result_that_is_no_number_is_reported(mine: str, name: str, got: str) -> None:
    value = weighted_reward({f"{mine}:{name}": 0.0})
    with pytest.raises(DataError, match=rf"reward.my_rewards:{name}: expected a finite number, got {got}; fix the fu"):
        value(answer("4"))


# Rewards of rollouts


def prompts() -> list[Prompt]:
    texts = {"a": ("1 and 1?", ["2"]), "b": ("3?", ["3", "4"])}
    return [
        Prompt(
            prompt_id=name, split="train", prompt_ids=[1], reference_ids=[2], prompt_text=text, references=references
        )
        for name, (text, references) in texts.items()
    ]


def written() -> list[Rollout]:
    texts = [("a", "it is 2"), ("b", "2"), ("a", "3")]
    return [rollout(name, [5, 6, 7], prompt=[1], prompt_id=name, text=text) for name, text in texts]


def test_each_rollout_is_compared_with_its_own_prompts_references() -> None:
    rewarded = reward_rollouts(written(), prompts(), {"exact_match": 1.0, "length": 0.1})
    assert [rollout.reward for rollout in rewarded] == pytest.approx([1.3, 0.3, 0.3])
    assert [replace(rollout, reward=None) for rollout in rewarded] == written()


def test_a_function_sees_the_prompt(mine: str) -> None:
    rewarded = reward_rollouts(written(), prompts(), {f"{mine}:asked": 1.0})
    assert [rollout.reward for rollout in rewarded] == [1, 1, 1]


def test_without_functions_there_is_no_reward_and_no_metric() -> None:
    assert reward_rollouts(written(), prompts(), {}) == written()
    assert completion_rewards(prompts(), [("2", 1, True), ("4", 1, False)], {}) == []


def test_each_completion_has_the_weighted_sum() -> None:
    rewards = completion_rewards(prompts(), [("2", 1, True), ("5", 5, False)], {"exact_match": 1.0, "finished": 0.5})
    assert rewards == pytest.approx([1.5, 0.0])
