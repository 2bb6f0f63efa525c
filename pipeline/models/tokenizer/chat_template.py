"""Conversations to text by the tokenizer's chat template, and a look at what it wrote.

* Guarantee: every request, system message, tool and tool call is in the text, else one line says what is missing. A
  template that drops a text gets a list of parts instead, as Idefics and SmolVLM want it.
* The date of a template never depends on the clock: it is `FIXED_DATE`, or the variable `date_string`.
* Any error that a template raises is one line.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, TypeAlias

from pipeline.core.hashing import digest
from pipeline.models.tokenizer.tokens import Tokenizer
from pipeline.runtime.errors import ModelError, ParameterError

Message: TypeAlias = dict[str, Any]  # role, content, and what else a template takes

FIXED_DATE = date(2024, 7, 26)  # Llama's templates write this date where they cannot ask for the time
MARK = "\ufdd0"  # stands inside a control token that data spell; Unicode keeps this code point out of texts
_DATE_FORMATS = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y", "%b %d, %Y")
_DIRECTIVES = [f"%{letter}" for letter in "aAbBcdfHIjmMpSuUVwWxXyYzZ"] + ["%-d", "%-m", "%-H", "%-I", "%-M", "%-S"]
# Variables that `apply_chat_template` takes for itself, or that the pipeline sets.
_RESERVED = {
    *("conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation up to an answer, with its tools and the variables of the chat template."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)  # `task.template.variables`


def check_variables(variables: Mapping[str, Any], *, where: str) -> None:
    """Check that every variable may be handed to a chat template.

    Raises:
        ParameterError: When a name is no variable's, or the tools are no list of mappings.
    """
    for name in variables:
        if not name.isidentifier() or name in _RESERVED:
            expected = "a variable of the chat template, such as enable_thinking"
            raise ParameterError(f"{where}.{name}", expected=expected, got="another name", remedy="remove it")
    tools = variables.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ParameterError(f"{where}.tools", expected="a list of functions as mappings", got=repr(tools))


def template_fingerprint(tokenizer: Tokenizer) -> str:
    """Return a fingerprint of the chat template, which decides the ids of a prompt, or "" without a template.

    The fixed date is part of it where the template asks for the time.
    """
    template = tokenizer.chat_template
    if not template:
        return ""
    return digest(template, str(FIXED_DATE)) if "strftime_now" in json.dumps(template) else digest(template)


def fixed_date(tokenizer: Tokenizer, variables: Mapping[str, Any]) -> str | None:
    """Return the date that the chat template writes in place of the day's, or None where it asks for none."""
    if "strftime_now" not in json.dumps(tokenizer.chat_template or ""):
        return None
    return str(variables.get("date_string", FIXED_DATE))


def chat_text(tokenizer: Tokenizer, chat: Chat, *, opens_answer: bool) -> str:
    """Return the text of a conversation.

    Args:
        tokenizer: The tokenizer with the chat template.
        chat: The conversation.
        opens_answer: End with the beginning of the assistant's turn.

    Raises:
        ModelError: When there is no template, when it fails, or when the text lacks a part of the conversation.
    """
    name = tokenizer.name_or_path or "tokenizer"
    if not tokenizer.chat_template:
        raise ModelError(name, expected="a chat template", got="none", remedy="set task.template.chat: false")
    variables = dict(chat.variables)
    chat = replace(chat, tools=chat.tools or variables.pop("tools", ()), variables=variables)
    variables.pop("tools", None)
    errors: list[Exception] = []
    lost: list[str] = []
    for messages in _forms(chat.messages):
        form = replace(chat, messages=messages)
        try:
            text = _applied(tokenizer, form, opens_answer=opens_answer)
        except ParameterError:
            raise
        except Exception as error:  # a template may raise anything: no system turn, a wrong type, a syntax error
            errors.append(error)
            continue
        missing = next(_missing(form, text), None)
        if missing is None:
            return text
        lost.append(missing)
    if not errors:
        expected, remedy = f"a chat template that writes {lost[0]}", "change task.template or the data, or the model"
        raise ModelError(name, expected=expected, got="a text without it", remedy=remedy)
    roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in chat.messages))
    got, remedy = " ".join(str(errors[0]).split())[:300] or type(errors[0]).__name__, "fix task.template"
    raise ModelError(name, expected=f"a chat template for turns of {roles}", got=got, remedy=remedy) from errors[0]


def _applied(tokenizer: Tokenizer, chat: Chat, *, opens_answer: bool) -> str:
    tools = [dict(tool) for tool in chat.tools] or None
    template = tokenizer.get_chat_template(None, tools)
    for name in chat.variables:
        if name not in template and not (name == "date_string" and "strftime_now" in template):
            expected, remedy = "a variable that the chat template uses", "correct or remove it"
            raise ParameterError(f"task.template.variables.{name}", expected=expected, got="another", remedy=remedy)
    if "strftime_now" in template:
        template = _clock(chat.variables.get("date_string")) + template
    text: str = tokenizer.apply_chat_template(
        list(chat.messages),
        tools=tools,
        chat_template=template,
        add_generation_prompt=opens_answer,
        tokenize=False,
        **chat.variables,
    )
    return text


def _clock(date_string: object) -> str:
    """Return the beginning of a template in which `strftime_now` writes a date that does not change."""
    day = FIXED_DATE if date_string is None else _parsed(str(date_string))
    if day is None:
        expression = json.dumps(str(date_string), ensure_ascii=False)
    else:
        moment = datetime.combine(day, datetime.min.time())
        expression = "format" + "".join(f"|replace('{code}', '{moment.strftime(code)}')" for code in _DIRECTIVES)
    return f"{{%- macro strftime_now(format) -%}}{{{{ {expression} }}}}{{%- endmacro -%}}"


def _parsed(text: str) -> date | None:
    for form in _DATE_FORMATS:
        with suppress(ValueError):
            return datetime.strptime(text, form).date()
    return None


def _forms(messages: Sequence[Message]) -> list[list[Message]]:
    """Return the messages as they are, and with texts in the place of lists of parts or the other way round."""
    if any(isinstance(message.get("content"), list) for message in messages):
        return [list(messages), [message | {"content": content_text(message)} for message in messages]]
    return [list(messages), [_as_parts(message) for message in messages]]


def _as_parts(message: Message) -> Message:
    content = message.get("content")
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def content_text(message: Message) -> str:
    """Return the content of a message as one text; the texts of parts follow each other."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _missing(chat: Chat, text: str) -> Iterator[str]:
    """Yield what a text lacks of its conversation, in words."""
    written = _squeezed(text)
    if "{'type':'text','text':" in written:
        yield "parts of a message as text"
    for message in chat.messages:
        role, content = message.get("role"), content_text(message)
        if role in ("user", "system", "developer") and _squeezed(content) not in written:
            yield f"the text of the role {role}"
        # Templates take the thoughts out of earlier answers.
        if role == "assistant" and _squeezed(content.rpartition("</think>")[2]) not in written:
            yield "the text of the role assistant"
        if role == "tool" and not all(_squeezed(word) in written for word in re.findall(r"\w+", content)):
            yield "the result of a tool"
        for call in message.get("tool_calls") or ():
            if _squeezed(_function_name(call)) not in written:
                yield f"the call of the tool {_function_name(call)}"
    for tool in chat.tools:
        if _squeezed(_function_name(tool)) not in written:
            yield f"the tool {_function_name(tool)}"


def _function_name(record: Mapping[str, Any]) -> str:
    return str(record.get("function", record).get("name", "")) if isinstance(record, Mapping) else ""


def _squeezed(text: str) -> str:
    """Return a text without blanks and in one case, as templates trim and some write upper-case."""
    return "".join(text.replace(MARK, "").split()).casefold()
