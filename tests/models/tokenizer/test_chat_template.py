"""Conversations by chat templates of every kind: what is missing is told, dates are fixed, errors are one line."""

import datetime
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from transformers.utils import chat_template_utils

from pipeline.models.tokenizer import Chat, render, template_fingerprint
from pipeline.runtime.errors import ModelError, ParameterError

ASK: list[dict[str, Any]] = [{"role": "user", "content": "What is 2+2?"}]
LOOP = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
PARTS = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<end>{% endfor %}"

Maker = Callable[..., Any]


class Clock(datetime.datetime):
    """A clock that can be set."""

    day = 1

    @classmethod
    def now(cls, tz: Any = None) -> "Clock":
        return cls(2026, 1, cls.day)


def text_of(tokenizer: Any, messages: list[dict[str, Any]] = ASK, **fields: Any) -> str:
    return render(tokenizer, Chat(messages=messages, **fields))[0]


@pytest.mark.parametrize("template", [PARTS, PARTS.replace("p['text']", "p['text'] | upper")])
def test_a_template_of_parts_gets_parts(template: str, make_tokenizer: Maker) -> None:
    assert text_of(make_tokenizer(template=template)).casefold() == "what is 2+2?<end>"


def test_a_template_of_texts_gets_texts(make_tokenizer: Maker) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]}]
    for template in (LOOP, LOOP.replace("m['content']", "m['content'] + ''")):
        assert text_of(make_tokenizer(template=template), parts) == "What is 2+2?<end>"


@pytest.mark.parametrize(
    ("template", "fields", "missing"),
    [
        ("{{ messages[0]['content'] }}<end>", {}, "the text of the role user"),
        (
            "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}",
            {},
            "the text of the role system",
        ),
        (LOOP, {"tools": [{"type": "function", "function": {"name": "look_up"}}]}, "the tool look_up"),
        (LOOP, {"variables": {"tools": [{"name": "look_up"}]}}, "the tool look_up"),
    ],
)
def test_a_part_that_the_template_drops_is_told(
    template: str, fields: dict[str, Any], missing: str, make_tokenizer: Maker
) -> None:
    chat = [{"role": "system", "content": "Be brief."}, *ASK]
    with pytest.raises(ModelError) as caught:
        text_of(make_tokenizer(template=template), chat, **fields)
    assert str(caught.value) == (
        f"tokenizer: expected a chat template that writes {missing}, got a text without it; "
        "change task.template or the data, or the model"
    )


def test_earlier_answers_are_looked_for_without_their_thoughts(make_tokenizer: Maker) -> None:
    chat = [*ASK, {"role": "assistant", "content": "<think>Hm.</think>\n\nYes, it is."}, *ASK]
    assert text_of(make_tokenizer(template=LOOP.replace("m['content']", "m['content'].split('</think>')[-1]")), chat)
    with pytest.raises(ModelError, match="expected a chat template that writes the text of the role assistant, got a"):
        text_of(make_tokenizer(template=LOOP.replace("in messages", "in messages if m.role != 'assistant'")), chat)


def test_calls_and_results_of_tools_are_looked_for(make_tokenizer: Maker) -> None:
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {}}}]}
    result = {"role": "tool", "content": '{"sum": 4}'}
    skips = "{% for m in messages if m['role'] not in SKIPPED %}{{ m | tojson }}{% endfor %}"
    assert "add" in text_of(make_tokenizer(template=skips.replace("SKIPPED", "[]")), [*ASK, call, result])
    with pytest.raises(ModelError, match="that writes the call of the tool add, got"):
        text_of(make_tokenizer(template=skips.replace("SKIPPED", "['assistant']")), [*ASK, call, result])
    with pytest.raises(ModelError, match="that writes the result of a tool, got"):
        text_of(make_tokenizer(template=skips.replace("SKIPPED", "['tool']")), [*ASK, call, result])


@pytest.mark.parametrize(
    ("template", "got"),
    [
        ("{{ raise_exception('No system turn') }}", "No system turn"),
        ("{% for m in messages %}{{ m['content'] }", "unexpected '}'"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages.pop() }}", "is unsafe"),
        ({"a": LOOP, "b": LOOP}, "This model has multiple chat templates with no default"),
    ],
)
def test_a_failing_template_is_one_line(template: Any, got: str, make_tokenizer: Maker) -> None:
    with pytest.raises(ModelError) as caught:
        text_of(make_tokenizer(template=template))
    assert str(caught.value).startswith("tokenizer: expected a chat template for turns of user, got ")
    assert got in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "variables", "written"),
    [
        ("{{ strftime_now('%d %b %Y') }}", {}, "26 Jul 2024"),
        ("{{ strftime_now('%Y-%m-%d, %B %-d') }}", {"date_string": "02 Mar 2025"}, "2025-03-02, March 2"),
        ("{{ strftime_now('%Y') }}", {"date_string": "in spring"}, "in spring"),
        ("{% set d = date_string if date_string is defined else strftime_now('%Y') %}{{ d }}", {}, "2024"),
        (
            "{% set d = date_string if date_string is defined else strftime_now('%Y') %}{{ d }}",
            {"date_string": "x"},
            "x",
        ),
        ("{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}{{ today() }}", {}, "2024"),
    ],
)
def test_the_date_does_not_depend_on_the_clock(
    template: str, variables: dict[str, Any], written: str, make_tokenizer: Maker
) -> None:
    tokenizer = make_tokenizer(template=template + LOOP)
    with patch.object(chat_template_utils, "datetime", Clock):
        for Clock.day in (1, 2):
            assert text_of(tokenizer, variables=variables) == f"{written}What is 2+2?<end>"


def test_the_fingerprint_has_the_date_where_the_template_asks_for_it(make_tokenizer: Maker) -> None:
    dated = make_tokenizer(template="{{ strftime_now('%Y') }}" + LOOP)
    before = template_fingerprint(dated)
    with patch("pipeline.models.tokenizer.chat_template.FIXED_DATE", datetime.date(2025, 1, 1)):
        assert template_fingerprint(dated) != before
    assert template_fingerprint(make_tokenizer(template=LOOP)) == "7411a025c2d4b4ff3dff28eaffb0d5d4"


def test_variables_reach_the_template_and_unknown_ones_are_refused(make_tokenizer: Maker) -> None:
    thinks = make_tokenizer(template=LOOP + "{% if not enable_thinking %}<think></think>{% endif %}")
    assert text_of(thinks, variables={"enable_thinking": False}).endswith("<think></think>")
    assert text_of(thinks, variables={"enable_thinking": True}).endswith("<end>")
    with pytest.raises(ParameterError) as caught:
        text_of(thinks, variables={"enable_thinkng": False})
    assert str(caught.value) == (
        "task.template.variables.enable_thinkng: expected a variable that the chat template uses, got another; "
        "correct or remove it"
    )


def test_tools_of_the_data_come_before_those_of_the_parameters(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template="{% for t in tools %}{{ t['name'] }},{% endfor %}" + LOOP)
    variables = {"tools": [{"name": "look_up"}]}
    assert text_of(tokenizer, variables=variables) == "look_up,What is 2+2?<end>"
    assert text_of(tokenizer, variables=variables, tools=[{"name": "add"}]) == "add,What is 2+2?<end>"
    named = make_tokenizer(template={"default": LOOP, "tool_use": "{{ tools[0]['name'] }}" + LOOP})
    assert text_of(named) == "What is 2+2?<end>"
    assert text_of(named, variables=variables) == "look_upWhat is 2+2?<end>"
