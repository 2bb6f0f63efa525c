"""Tests of prompts from templates, and of the errors of templates that do not fit the task."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.runtime.errors import ParameterError
from pipeline.tasks import Case
from pipeline.tasks.templates import TemplateParams, check_template, render_template

TALK = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "2+2"})
CASE = Case(case_id="a", split="train", fields={"question": "Is {this} a brace?"}, references=("Yes.",))
CHAT = Case(case_id="b", split="train", fields={"question": "2+2"}, messages=TALK, references=("4",))


def template(**changes: Any) -> TemplateParams:
    return TemplateParams(**({"text": "Q: {question}\nA:", "chat": False, "system": None} | changes))


def test_a_plain_template_is_filled_and_braces_in_values_stay() -> None:
    assert render_template(template(), CASE) == "Q: Is {this} a brace?\nA:"
    assert render_template(template(text="{{{question}}}"), CASE) == "{Is {this} a brace?}"


def test_a_chat_template_gets_messages() -> None:
    user = {"role": "user", "content": "Q: Is {this} a brace?\nA:"}
    assert render_template(template(chat=True), CASE) == [user]
    assert render_template(template(chat=True, system="Be brief."), CASE) == [
        {"role": "system", "content": "Be brief."},
        user,
    ]


def test_without_a_text_the_conversation_of_the_data_is_taken() -> None:
    assert render_template(template(text=None, chat=True), CHAT) == list(TALK)
    with pytest.raises(ParameterError) as caught:
        render_template(template(text=None, chat=True), CASE)
    assert str(caught.value) == (
        "task.template.text: expected a text with {question}, got null, and data without messages; give one"
    )


def test_two_system_messages_are_refused() -> None:
    chat = replace(CHAT, messages=({"role": "system", "content": "Be kind."}, *TALK))
    with pytest.raises(ParameterError, match=r"^task.template.system: expected null where the data have system mess"):
        render_template(template(text=None, chat=True, system="Be brief."), chat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "{answer}"}, "text: expected a text with {question} or {hint}, got {answer}; fix params.yaml"),
        ({"text": "{question.__class__}"}, "text: expected a text with {question} or {hint}, got {question.__class__}"),
        ({"text": "{question!r}"}, "text: expected a text with {question} or {hint}, got {question}; fix"),
        ({"text": "{question:>9}"}, "text: expected a text with {question} or {hint}, got {question}; fix"),
        ({"text": "{}"}, "text: expected a text with {question} or {hint}, got {}; fix params.yaml"),
        ({"text": "{question"}, "text: expected a text with {question} or {hint}, got '{question' ("),
        ({"text": "Hello."}, "text: expected a text with {question} or {hint}, got 'Hello.', which is the same"),
        ({"text": None}, "chat: expected true where text is null, got false; give task.template.text, or set chat"),
        ({"variables": {"tools": []}}, "variables: expected {} where chat is false, got {'tools': []}; remove them"),
        ({"chat": True, "variables": {"messages": []}}, "variables.messages: expected a variable of the chat template"),
        ({"chat": True, "variables": {"a-b": 1}}, "variables.a-b: expected a variable of the chat template"),
        ({"chat": True, "variables": {"tools": {}}}, "variables.tools: expected a list of functions as mappings, got"),
        ({"system": "Be brief."}, "system: expected null where chat is false, got 'Be brief.'; put it into"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        check_template(template(**changes), ("question", "hint"))
    assert str(caught.value).startswith(f"task.template.{message}")


THINKS = {"enable_thinking": False, "tools": [{"name": "look_up"}]}


@pytest.mark.parametrize(
    "changes",
    [{}, {"chat": True, "system": "S"}, {"text": None, "chat": True}, {"chat": True, "variables": THINKS}],
)
def test_a_template_that_fits_passes(changes: dict[str, Any]) -> None:
    check_template(template(**changes), ("question", "hint"))
