"""Tests of conversations as people have them: what is read, and what is refused by name."""

import json
from typing import Any

import pytest

from pipeline.runtime.errors import DataError
from pipeline.tasks.conversations import Conversation, holds_messages, read_conversation, reference_text
from pipeline.tasks.rows import Row


def read(messages: Any, **values: Any) -> Conversation:
    return read_conversation(Row(values={"messages": messages} | values, where="row 3"), "messages")


def messages_of(messages: Any, **values: Any) -> list[dict[str, Any]]:
    return [turn.message for turn in read(messages, **values).turns]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("human", "user"),
        ("User", "user"),
        ("gpt", "assistant"),
        ("model", "assistant"),
        ("developer", "system"),
        ("observation", "tool"),
        ("ipython", "tool"),
        ("function", "tool"),
    ],
)
def test_roles_have_many_names(role: str, expected: str) -> None:
    assert messages_of([{"from": role, "value": "x"}]) == [{"role": expected, "content": "x"}]
    assert messages_of([{"role": role, "content": "x"}]) == [{"role": expected, "content": "x"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        (7, "7"),
        ("", ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"text": "a"}, "b"], "a\nb"),
        ([], ""),
    ],
)
def test_contents_are_text_whatever_their_form(content: Any, expected: str) -> None:
    assert messages_of([{"role": "user", "content": content}]) == [{"role": "user", "content": expected}]


def test_what_a_template_takes_stays() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {}}}
    talk = [
        {"role": "assistant", "content": None, "thinking": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "name": "now", "tool_call_id": "c1"},
    ]
    assert messages_of(talk) == [
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "content": "noon", "name": "now", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": {"a": 1}}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([{"name": "add", "parameters": {"a": 1}}])},
    ],
)
def test_calls_of_every_form_are_one_form(message: dict[str, Any]) -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    assert messages_of([message]) == [{"role": "assistant", "content": "", "tool_calls": calls}]


@pytest.mark.parametrize(
    "tools", [[{"name": "f"}], '[{"name": "f"}]', ['{"name": "f"}'], [{"type": "function", "function": {"name": "f"}}]]
)
def test_tools_of_every_form_are_one_form(tools: Any) -> None:
    assert read([], tools=tools).tools == ({"type": "function", "function": {"name": "f"}},)
    assert read([], tools="").tools == read([], tools=[]).tools == read([]).tools == ()


def test_sharegpt_may_have_its_system_message_beside_the_conversation() -> None:
    talk, rule = [{"from": "human", "value": "Hi"}], {"role": "system", "content": "Rhyme."}
    assert messages_of(talk, system="Rhyme.")[0] == rule
    assert messages_of([{"from": "system", "value": "Own."}, *talk], system="Rhyme.")[0]["content"] == "Own."
    assert messages_of([{"from": "system", "value": ""}, *talk], system=None)[0]["role"] == "user"


def test_messages_may_be_json_text() -> None:
    talk = [{"role": "user", "content": "Hi"}]
    assert messages_of(json.dumps(talk)) == talk
    assert holds_messages(json.dumps(talk))
    assert not any(map(holds_messages, ("[INST] Hi", [], ["Hi"], None, [{"text": "Hi"}])))


@pytest.mark.parametrize(
    ("messages", "values", "message"),
    [
        ("Hi", {}, r"row 3\.messages: expected a list of messages with role and content, or from and value, got str"),
        (
            [{"from": "narrator", "value": "x"}],
            {},
            r"\[0\]\.role: expected one of: .*, got 'narrator'; rename",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            {},
            r"content: expected parts of text, .*image_url",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": ["a"]}]}], {}, r"content: expected text, got list"),
        ([{"role": "assistant", "thinking": {"a": 1}}], {}, r"\[0\]\.thinking: expected text, got dict"),
        ([{"role": "user", "content": {"a": 1}}], {}, r"\[0\]\.content: expected text, got dict"),
        ([{"role": "user", "content": "x", "images": ["a.png"]}], {}, r"\[0\]: expected text alone, got .*'images'"),
        ([], {"image": {"path": "a.png"}}, r"row 3: expected text alone, got content in 'image'"),
        ([{"from": "function_call", "value": "add 1"}], {}, r"\.value: expected calls with a name .*, got \"add 1\""),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], {}, r"tool_calls: expected calls with a name"),
        ([], {"tools": ["search"]}, r"row 3\.tools: expected a list of functions with names, .*, got \"search\""),
    ],
)
def test_what_no_template_takes_is_refused_by_name(messages: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(messages, **values)
    assert "\n" not in str(caught.value)


def test_other_keys_with_a_content_are_named() -> None:
    talk = [{"role": "user", "content": "Hi", "id": 7, "audio": None, "note": "", "images": []}]
    assert read(talk).ignored == {"the key 'id' of messages"}


@pytest.mark.parametrize("message", [{"role": "user", "text": "Hi"}, {"from": "human", "content": "", "value": "Hi"}])
def test_a_content_may_have_other_keys(message: dict[str, Any]) -> None:
    assert messages_of([message]) == [{"role": "user", "content": "Hi"}]
    assert read([message]).ignored == frozenset()


def test_a_second_content_is_named_unless_it_is_the_same() -> None:
    both = {"role": "user", "content": "Hi", "text": "Hello"}
    assert messages_of([both]) == [{"role": "user", "content": "Hi"}]
    assert read([both]).ignored == {"the key 'text' of messages"}
    assert read([both | {"text": "Hi"}]).ignored == frozenset()


def test_the_reference_of_several_calls_is_their_list() -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in "ab"]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    assert json.loads(reference_text(message)) == [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]
    assert reference_text(message | {"content": "So."}) == "So."


def test_a_second_system_message_is_named_and_an_empty_one_is_none() -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert read(talk, system="Be brief.").ignored == frozenset()
    both = read(talk, system_prompt="Be long.")
    assert [turn.message for turn in both.turns] == talk
    assert both.ignored == {"the column 'system_prompt' beside another system message"}
    empty = [{"role": "system", "content": ""}, {"role": "user", "content": "Hi"}]
    assert messages_of(empty, system_prompt="Be brief.") == talk
    with pytest.raises(DataError, match=r"row 3\.system: expected text, got list"):
        read(talk, system=["Be brief."])
