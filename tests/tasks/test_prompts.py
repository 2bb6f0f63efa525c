"""Tests of the choice and the order of prompts, and of the counts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.runtime.errors import DataError, ModelError, ParameterError
from pipeline.tasks import Case, Split
from pipeline.tasks.prompts import PromptParams, find_cases, rank_tokens, render_prompts
from pipeline.tasks.templates import TemplateParams

PLAIN = TemplateParams(text="{text}", chat=False, system=None)


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """Return a tokenizer with one token for each character, and one in front of a prompt."""
    return make_tokenizer()


def params(**changes: Any) -> PromptParams:
    values: dict[str, Any] = {"name": "gsm8k", "train": 5, "heldout": 1, "max_prompt_tokens": 8, "settings": {}}
    return PromptParams(**(values | {"template": PLAIN} | changes))


def pool(split: Split, count: int, *, words: int = 3, start: int = 0) -> list[Case]:
    texts = {i: " ".join([f"{split[0]}{i}", *"x" * (words - 1)]) for i in range(start, start + count)}
    return [case(f"{split}-{i}", text, split) for i, text in texts.items()]


def case(case_id: str, text: str, split: Split = "train", references: tuple[str, ...] = ("c d", "e")) -> Case:
    return Case(case_id=case_id, split=split, fields={"text": text}, references=references)


def ids_of(cases: list[Case], tokenizer: Any, p: PromptParams, *, seed: int = 1, split: str = "train") -> list[str]:
    prompts, _ = render_prompts(cases, tokenizer, p, seed=seed)
    return [prompt.prompt_id for prompt in prompts if prompt.split == split]


def test_prompts_carry_their_case(tokenizer: Any) -> None:
    prompts, counts = render_prompts(pool("train", 9) + pool("heldout", 3), tokenizer, params(heldout=2), seed=1)
    assert [prompt.split for prompt in prompts] == ["train"] * 5 + ["heldout"] * 2
    first = prompts[0]
    c, d, space = tokenizer.convert_tokens_to_ids([*"cd", "Ġ"])
    assert first.prompt_text == f"t{first.prompt_id.removeprefix('train-')} x x"
    assert first.prompt_ids == [256, *tokenizer(first.prompt_text, add_special_tokens=False)["input_ids"]]
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
    assert str(counts[0]) == (
        "warning: train: 3 of 7 cases, 4 filtered as too long; 5 were requested, no more are left"
    )


def test_a_split_without_prompts_says_what_to_change(tokenizer: Any) -> None:
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 3), tokenizer, params(), seed=1)
    assert str(caught.value) == "task gsm8k, heldout: expected cases, got none; change task.settings"
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 3, words=9) + pool("heldout", 1), tokenizer, params(), seed=1)
    assert str(caught.value) == (
        "task gsm8k, train: expected a prompt short enough, got none of 3; raise task.max_prompt_tokens (8)"
    )


def test_fewer_held_out_prompts_than_requested_are_an_error(tokenizer: Any) -> None:
    """Three of the five held-out cases are short enough, and two of these have the same prompt."""
    heldout = [*pool("heldout", 2), case("again", "h1 x x", "heldout"), *pool("heldout", 2, words=9, start=2)]
    assert len(ids_of(pool("train", 2) + heldout, tokenizer, params(heldout=2), split="heldout")) == 2
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 2) + heldout, tokenizer, params(heldout=3), seed=1)
    assert str(caught.value) == (
        "task.heldout: expected 3 prompts, got 2 of 5 cases, 2 filtered as too long; "
        "lower it to 2 and evaluation.prompts with it, or add held-out data"
    )


def test_cases_with_equal_prompts_are_one_prompt_with_all_references(tokenizer: Any) -> None:
    cases = [case("a", "x"), case("b", "x", references=("e", "f")), case("c", "y"), case("d", "z", "heldout")]
    prompts, counts = render_prompts(cases, tokenizer, params(), seed=1)
    references = {prompt.prompt_text: sorted(prompt.references) for prompt in prompts}
    assert references == {"x": ["c d", "e", "f"], "y": ["c d", "e"], "z": ["c d", "e"]}
    assert counts[0] == (
        "train: 2 of 3 cases, 0 filtered as too long, 1 merged with equal prompts; 5 were requested, no more are left"
    )


def test_prompts_that_become_equal_in_the_chat_template_are_one(make_tokenizer: Callable[..., Any]) -> None:
    trims = make_tokenizer(template="{% for m in messages %}{{ m['content'] | trim }}<end>{% endfor %}")
    cases = [case("a", "x"), case("b", " x ", references=("f",)), case("c", "y", "heldout"), case("d", "y ")]
    p = params(template=TemplateParams(text="{text}", chat=True, system=None))
    prompts, counts = render_prompts(cases, trims, p, seed=1)
    assert [(prompt.prompt_text, sorted(prompt.references)) for prompt in prompts] == [
        ("x<end>", ["c d", "e", "f"]),
        ("y<end>", ["c d", "e"]),
    ]
    assert ", 1 merged with equal prompts, 1 left out because their prompts are held out; 5 were" in counts[0]


def test_a_case_that_the_chat_template_refuses_is_shown(make_tokenizer: Callable[..., Any]) -> None:
    strict = "{% for m in messages %}{{ raise_exception('no bees') if 'bee' in m.content }}{{ m.content }}{% endfor %}"
    chat = params(template=replace(PLAIN, chat=True))
    cases = [*pool("train", 2), case("odd", "bee keeping"), *pool("heldout", 2)]
    with pytest.raises(ModelError, match=r"^tokenizer at the case 'bee keeping': .* got no bees; fix task.template$"):
        render_prompts(cases, make_tokenizer(template=strict), chat, seed=1)


def test_no_prompt_is_in_both_splits(tokenizer: Any) -> None:
    cases = [*pool("train", 4), *pool("heldout", 3), case("twin", "h2 x x"), case("other", "h1 x x")]
    prompts, counts = render_prompts(cases, tokenizer, params(heldout=1), seed=1)
    splits = {split: {p.prompt_text for p in prompts if p.split == split} for split in ("train", "heldout")}
    assert splits["train"] == {f"t{i} x x" for i in range(4)}  # also without those that were not chosen
    assert ", 2 left out because their prompts are held out; 5 were requested" in counts[0]
    with pytest.raises(DataError) as caught:
        render_prompts([case("a", "x"), case("b", "x", "heldout")], tokenizer, params(), seed=1)
    assert str(caught.value) == (
        "task gsm8k, train: expected a prompt, got none of 1, because 1 have prompts of the held-out split; "
        "use more fields in task.template.text"
    )


def test_a_control_token_in_the_data_is_text_and_one_in_the_template_is_a_token(tokenizer: Any) -> None:
    cases = [case("a", "x<end>"), case("b", "y", "heldout")]
    p = params(template=TemplateParams(text="{text}<end>", chat=False, system=None), max_prompt_tokens=20)
    prompt = render_prompts(cases, tokenizer, p, seed=1)[0][0]
    assert prompt.prompt_text == "x<end><end>"
    assert [token for token in prompt.prompt_ids if token > 255] == [256, 258]
    assert len(prompt.prompt_ids) == 1 + len("x<end>") + 1


def test_a_token_without_a_row_in_the_head_is_refused_where_a_prompt_has_it(make_tokenizer: Callable[..., Any]) -> None:
    short = make_tokenizer(template="{% for m in messages %}{{ m['content'] }}<extra>{% endfor %}")
    short.init_kwargs["stillroom_vocab"] = 259
    p = params(template=TemplateParams(text="{text}", chat=True, system=None))
    with pytest.raises(DataError) as caught:
        render_prompts(pool("train", 1) + pool("heldout", 1), short, p, seed=1)
    assert str(caught.value) == (
        "task.template: expected token ids below 259, the rows of the teacher's head, got 259 in a prompt; "
        "keep '<extra>' out of the chat template, or use the model's own tokenizer"
    )


def test_the_date_of_a_template_is_told(make_tokenizer: Callable[..., Any]) -> None:
    dated = make_tokenizer(template="{{ strftime_now('%Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for variables, date in (({}, "2024-07-26"), ({"date_string": "May"}, "May")):
        p = params(
            template=TemplateParams(text="{text}", chat=True, system=None, variables=variables), max_prompt_tokens=20
        )
        prompts, lines = render_prompts(pool("train", 1) + pool("heldout", 1), dated, p, seed=1)
        assert lines[2] == f"the chat template's date is {date}; task.template.variables.date_string sets another"
        assert {prompt.prompt_text[: len(date[:4])] for prompt in prompts} == {date[:4]}


CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)


def test_references_may_train_on_every_turn_of_the_assistant(make_tokenizer: Callable[..., Any]) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    answer = {"role": "assistant", "content": "d"}
    fields: dict[str, Any] = {"fields": {}, "messages": tuple(talk), "answer": answer, "references": ("d",)}
    cases = [
        Case(case_id="a", split="train", all_turns=True, **fields),
        Case(case_id="b", split="heldout", **(fields | {"messages": tuple(talk[:1])})),
    ]
    tokenizer = make_tokenizer(template=CHATML)
    p = params(template=TemplateParams(text=None, chat=True, system=None), max_prompt_tokens=99)
    train, heldout = render_prompts(cases, tokenizer, p, seed=1)[0]
    learnt = [token for token, is_learnt in zip(train.prompt_ids, train.assistant_mask, strict=True) if is_learnt]
    assert learnt == tokenizer("b<end>", add_special_tokens=False)["input_ids"]
    assert train.reference_ids == tokenizer("d<end>", add_special_tokens=False)["input_ids"]
    assert heldout.assistant_mask == []


def test_the_settings_go_to_the_task_that_is_named() -> None:
    chosen = {"train_packages": ["json"], "heldout_packages": ["email"], "min_chars": 60, "max_chars": 900}
    assert {case.split for case in find_cases(params(name="docstrings", settings=chosen))} <= {"train", "heldout"}
    with pytest.raises(ParameterError, match=r"^task\.settings\.min_chars: expected int, got 'x' \(str\)"):
        find_cases(params(name="docstrings", settings=chosen | {"min_chars": "x"}))
    with pytest.raises(ParameterError, match=r"^task\.name: expected one of: .*gsm8k, .*, got 'other'"):
        find_cases(params(name="other"))


def test_tokens_are_ranked_by_how_often_they_occur(tokenizer: Any) -> None:
    prompts, _ = render_prompts(pool("train", 5) + pool("heldout", 2), tokenizer, params(heldout=2), seed=1)
    ranks_V = rank_tokens(prompts, 260)
    assert sorted(ranks_V.tolist()) == list(range(260))
    c, d, t, x, space = tokenizer.convert_tokens_to_ids([*"cdtx", "Ġ"])
    assert ranks_V[:7].tolist() == [space, x, c, d, 256, 257, t]  # equally frequent ones in the order of their ids
    rarer = tokenizer.convert_tokens_to_ids([*"01h", *"234"])
    assert ranks_V[7:13].tolist() == rarer
    assert ranks_V[13:].tolist() == sorted(set(range(260)) - {space, x, c, d, 256, 257, t, *rarer})


def test_conversations_that_a_text_shortens_are_counted(make_tokenizer: Callable[..., Any]) -> None:
    talk = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "a b"})
    cases = [replace(case("a", "a b"), messages=talk), case("b", "c", "heldout")]
    _, lines = render_prompts(cases, make_tokenizer(), params(), seed=1)
    assert lines[-1].startswith("warning: 1 of 2 cases lose their earlier messages; set task.template.text to null")
