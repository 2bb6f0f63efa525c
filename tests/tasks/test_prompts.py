"""Tests of the choice and the order of prompts, and of the counts."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.runtime.errors import DataError, ParameterError
from pipeline.tasks import Case, Split
from pipeline.tasks.prompts import PromptParams, find_cases, rank_tokens, render_prompts
from pipeline.tasks.templates import TemplateParams

PLAIN = TemplateParams(text="{text}", chat=False, system=None)


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """Return a tokenizer with one token for each character, and one in front of a prompt."""
    return make_tokenizer()


def params(**changes: Any) -> PromptParams:
    values: dict[str, Any] = {"name": "gsm8k", "train": 5, "heldout": 2, "max_prompt_tokens": 8, "settings": {}}
    return PromptParams(**(values | {"template": PLAIN} | changes))


def pool(split: Split, count: int, *, words: int = 3, start: int = 0) -> list[Case]:
    text = " ".join("abcdefghij"[:words])
    ids = range(start, start + count)
    return [Case(case_id=f"{split}-{i}", split=split, fields={"text": text}, references=("c d", "e")) for i in ids]


def ids_of(cases: list[Case], tokenizer: Any, p: PromptParams, *, seed: int = 1, split: str = "train") -> list[str]:
    prompts, _ = render_prompts(cases, tokenizer, p, seed=seed)
    return [prompt.prompt_id for prompt in prompts if prompt.split == split]


def test_prompts_carry_their_case(tokenizer: Any) -> None:
    prompts, counts = render_prompts(pool("train", 9) + pool("heldout", 3), tokenizer, params(), seed=1)
    assert [prompt.split for prompt in prompts] == ["train"] * 5 + ["heldout"] * 2
    first = prompts[0]
    a, b, c, d, space = tokenizer.convert_tokens_to_ids([*"abcd", "Ġ"])
    assert (first.prompt_text, first.prompt_ids) == ("a b c", [256, a, space, b, space, c])
    assert (first.references, first.reference_ids) == (["c d", "e"], [c, space, d, 257])
    assert [str(split) for split in counts] == [
        "train: 5 of 9 cases, 0 filtered as too long",
        "heldout: 2 of 3 cases, 0 filtered as too long",
    ]


def test_the_choice_depends_on_seed_and_id_alone(tokenizer: Any) -> None:
    cases = pool("train", 40) + pool("heldout", 4)
    chosen = ids_of(cases, tokenizer, params())
    assert ids_of(cases[::-1], tokenizer, params()) == chosen
    assert ids_of(cases, tokenizer, params(), seed=2) != chosen
    assert ids_of(cases, tokenizer, params(train=3)) == chosen[:3]


def test_cases_that_are_added_later_do_not_reshuffle(tokenizer: Any) -> None:
    few, heldout = pool("train", 20), pool("heldout", 2)
    before = ids_of(few + heldout, tokenizer, params(train=20))
    after = ids_of(few + heldout + pool("train", 20, start=20), tokenizer, params(train=40))
    assert [prompt_id for prompt_id in after if prompt_id in before] == before


def test_long_prompts_are_filtered_and_counted(tokenizer: Any) -> None:
    cases = pool("train", 3) + pool("train", 4, words=9, start=3) + pool("heldout", 2)
    prompts, counts = render_prompts(cases, tokenizer, params(), seed=1)
    assert {prompt.prompt_id for prompt in prompts if prompt.split == "train"} == {"train-0", "train-1", "train-2"}
    assert str(counts[0]) == ("train: 3 of 7 cases, 4 filtered as too long; 5 were requested, no more are left")


def test_a_split_without_prompts_says_what_to_change(tokenizer: Any) -> None:
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 3), tokenizer, params(), seed=1)
    assert str(caught.value) == "task gsm8k, heldout: expected cases, got none; change task.settings"
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 3, words=9), tokenizer, params(), seed=1)
    assert str(caught.value) == (
        "task gsm8k, train: expected a prompt short enough, got none of 3; raise task.max_prompt_tokens (8)"
    )


def test_the_settings_go_to_the_task_that_is_named() -> None:
    chosen = {"train_packages": ["json"], "heldout_packages": ["email"], "min_chars": 60, "max_chars": 900}
    assert {case.split for case in find_cases(params(name="docstrings", settings=chosen))} <= {"train", "heldout"}
    with pytest.raises(ParameterError, match=r"^task\.settings\.min_chars: expected int, got 'x' \(str\)"):
        find_cases(params(name="docstrings", settings=chosen | {"min_chars": "x"}))
    with pytest.raises(ParameterError, match=r"^task\.name: expected one of: .*gsm8k, .*, got 'other'"):
        find_cases(params(name="other"))


def test_tokens_are_ranked_by_how_often_they_occur(tokenizer: Any) -> None:
    prompts, _ = render_prompts(pool("train", 5) + pool("heldout", 2), tokenizer, params(), seed=1)
    ranks_V = rank_tokens(prompts, 260)
    assert sorted(ranks_V.tolist()) == list(range(260))
    a, b, c, d, space = tokenizer.convert_tokens_to_ids([*"abcd", "Ġ"])
    assert ranks_V[:7].tolist() == [space, c, a, b, d, 256, 257]  # equally frequent ones in the order of their ids
    assert ranks_V[7:].tolist() == sorted(set(range(260)) - {space, a, b, c, d, 256, 257})
