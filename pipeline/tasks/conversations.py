"""Read a conversation as people have it, and return messages as chat templates take them.

* Messages have `role` and `content` (OpenAI, UltraChat), or `from` and `value` (ShareGPT). `text` is a content too. A
  column may hold them as JSON text. Contents may be null beside tool calls, or lists of text parts, which are joined by
  line breaks, as vLLM joins them. Tools are in the column `tools`, and a system message may be in the column `system`
  or `system_prompt`, also of a table, whose column `history` has earlier questions with their answers.
* Guarantee: nothing is dropped silently. What a template cannot take (images, an unknown role, a call without a name)
  is refused by name, and other keys with a content are named in `ignored`.
"""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Message
from pipeline.tasks.rows import Row, cell_text

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "tool_response", "function_response"), "tool"),
}
EXTRA_COLUMNS = ("system", "system_prompt", "tools", "history")  # read beside those that the settings name
_PAIR = ("user", "assistant")
_SYSTEM = ("system", "system_prompt")  # columns
_CALLS = ("function_call", "tool_call")  # roles of ShareGPT whose value is a call
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_WEIGHTS = ("weight", "train", "loss")  # false or 0: not to be trained on
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_CONTENTS = ("content", "value", "text")  # keys of a message's content
_USED = {"role", "from", "name", "tool_calls", "function_call", "tool_call_id"}
_KNOWN = _USED | {*_REASONING, *_WEIGHTS, *_MEDIA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message, and whether the data exclude it from training."""

    message: Message
    excluded: bool
    keys_without_content: tuple[str, ...] = ()  # all keys as written, where something stands under an unknown one

    @property
    def is_answer(self) -> bool:
        """Whether the assistant wrote it."""
        return bool(self.message["role"] == "assistant")

    @property
    def is_empty(self) -> bool:
        """Whether a user or the assistant says nothing, calls nothing and thinks nothing."""
        of_people = self.message["role"] in ("user", "assistant")
        return of_people and self.message.keys() <= {"role", "content"} and not self.message["content"].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The messages of a row, its tools, and what of it is not used."""

    turns: list[Turn]
    tools: tuple[dict[str, Any], ...]
    ignored: frozenset[str]  # in words


def read_conversation(row: Row, *columns: str) -> Conversation:
    """Return the messages of columns one after the other; the text of a second column is the assistant's message.

    Raises:
        DataError: When a column holds something else, or a message holds what no chat template takes.
    """
    turns: list[Turn] = []
    ignored: set[str] = set()
    for place, column in enumerate(columns):
        for number, message in enumerate(_messages(row, column, "user" if place == 0 else "assistant")):
            where = f"{row.where}.{column}[{number}]"
            _refuse_media(message, where)
            turns.append(_turn(message, where))
            ignored |= {f"the key {key!r} of messages" for key in _unused(message)}
    _refuse_media(row.values, row.where)
    system = [turn for turn in turns if turn.message["role"] == "system" and turn.message["content"]]
    for column in _SYSTEM:
        if (text := row.text(column)).strip() and not system:
            system = [Turn(message={"role": "system", "content": text}, excluded=False)]
            turns[:0] = system
        elif text.strip() and system[0].message["content"] != text:
            ignored.add(f"the column {column!r} beside another system message")
    spoken = [turn for turn in turns if turn.message != {"role": "system", "content": ""}]
    tools = _tools(row.value("tools"), f"{row.where}.tools")
    return Conversation(turns=spoken, tools=tools, ignored=frozenset(ignored))


def earlier_messages(row: Row, used: Container[str | None]) -> list[Message]:
    """Return the messages that a table has before its question, in the columns `system` and `history`.

    Args:
        row: A row of the table.
        used: The columns that hold something else.

    Raises:
        DataError: When one of these columns has another type.
    """
    texts = [row.text(column) for column in _SYSTEM if column not in used]
    messages: list[Message] = [{"role": "system", "content": text} for text in texts if text.strip()][:1]
    history = None if "history" in used else row.value("history")
    history = (_from_json(history) if history.strip() else []) if isinstance(history, str) else history or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or None in (contents := list(map(cell_text, pair))):
            raise row.wrong_type("history", "a list of pairs, each a question and its answer", pair)
        messages += [{"role": role, "content": text} for role, text in zip(_PAIR, contents, strict=True)]
    return messages


def reference_text(message: Message) -> str:
    """Return the content of an answer, or its calls as JSON where it has no content."""
    if message["content"] or "tool_calls" not in message:
        return str(message["content"])
    calls = [call["function"] for call in message["tool_calls"]]
    return json.dumps(calls if len(calls) > 1 else calls[0], sort_keys=True, ensure_ascii=False)


def holds_messages(value: Any) -> bool:
    """Return whether a value is a list of messages of either form, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _from_json(value)
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, Mapping) and ("role" in item or "from" in item) for item in value)


def holds_question(value: Any) -> bool:
    """Return whether a value holds messages, and not those of the assistant alone."""
    messages = _from_json(value) if isinstance(value, str) else value
    speakers = {str(item.get("role") or item.get("from")).lower() for item in messages} if holds_messages(value) else ()
    return any(_ROLES.get(speaker) != "assistant" for speaker in speakers)


def _messages(row: Row, column: str, speaker: str) -> Sequence[Mapping[str, Any]]:
    value = row.value(column)
    if holds_messages(value):
        return list(_from_json(value) if isinstance(value, str) else value)
    if value is None or value == []:
        return []
    if isinstance(value, str) and column != "messages" and speaker == "assistant":
        return [{"role": speaker, "content": value}]
    raise row.wrong_type(column, "a list of messages with role and content, or from and value", value)


def _turn(message: Mapping[str, Any], where: str) -> Turn:
    speaker = str(message.get("role") or message.get("from"))
    role = _ROLES.get(speaker.lower())
    if role is None:
        remedy = "rename the role, or delete the message"
        raise DataError(f"{where}.role", expected=f"one of: {', '.join(_ROLES)}", got=repr(speaker), remedy=remedy)
    body = message.get(_content_key(message))
    calls = _calls(message.get("tool_calls") or message.get("function_call") or [], f"{where}.tool_calls")
    if speaker.lower() in _CALLS:
        body, calls = None, _calls(body, f"{where}.value")
    turn: Message = {"role": role, "content": _content(body, f"{where}.content")}
    reasoning = next((_content(message[key], f"{where}.{key}") for key in _REASONING if message.get(key)), None)
    extra = {"tool_calls": calls, "reasoning_content": reasoning}
    extra |= {key: message.get(key) for key in ("name", "tool_call_id")}
    excluded = any(message.get(key) is not None and not message[key] for key in _WEIGHTS)
    message_keys = tuple(message) if message.keys().isdisjoint(_CONTENTS) and _unused(message) else ()
    turn |= {key: value for key, value in extra.items() if value}
    return Turn(message=turn, excluded=excluded, keys_without_content=message_keys)


def _content_key(message: Mapping[str, Any]) -> str:
    """Return the key of a message's content: the first that says something."""
    return next((key for key in _CONTENTS if _holds(message.get(key))), "content")


def _unused(message: Mapping[str, Any]) -> list[str]:
    """Return the keys that say something which is not read."""
    used = _content_key(message)
    repeated = {key for key in _CONTENTS if message.get(key) == message.get(used)}
    return [key for key in message if key not in _KNOWN | repeated and _holds(message[key])]


def _content(value: Any, where: str) -> str:
    """Return a text, or the text parts of a list."""
    if not isinstance(value, list):
        return _text(value, where)
    texts = []
    for part in value:
        kind = part.get("type", "text" if "text" in part else "unknown") if isinstance(part, Mapping) else "text"
        if kind not in _TEXT_PARTS:
            expected, remedy = "parts of text", "delete the rows with other parts; only text can be used"
            raise DataError(where, expected=expected, got=f"a part of the type {kind!r}", remedy=remedy)
        texts.append(part.get("text") if isinstance(part, Mapping) else part)
    return "\n".join(_text(text, where) for text in texts)


def _text(value: Any, where: str) -> str:
    text = cell_text(value)
    if text is None:
        raise DataError(where, expected="text", got=type(value).__name__, remedy="fix the data")
    return text


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Return calls as templates take them: a function with a name and its arguments as a mapping."""
    value = _from_json(value) if isinstance(value, str) else value
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        arguments = function.get("arguments", function.get("parameters")) if isinstance(function, Mapping) else None
        arguments = (_from_json(arguments) if arguments.strip() else {}) if isinstance(arguments, str) else arguments
        if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
            expected, got = "calls with a name and a mapping of arguments", json.dumps(call, default=str)[:80]
            raise DataError(where, expected=expected, got=got, remedy="fix the data")
        identity = {"id": call["id"]} if call.get("id") else {}
        calls.append(identity | {"type": "function", "function": {"name": name, "arguments": dict(arguments or {})}})
    return calls


def _tools(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Return descriptions of functions, each as {"type": "function", "function": ...}."""
    value = (_from_json(value) if value.strip() else []) if isinstance(value, str) else value or []
    tools = []
    for tool in value if isinstance(value, list) else [value]:
        description = _from_json(tool) if isinstance(tool, str) else tool
        function = description.get("function", description) if isinstance(description, Mapping) else {}
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            expected, got = "a list of functions with names, or its JSON text", json.dumps(tool, default=str)[:80]
            raise DataError(where, expected=expected, got=got, remedy="fix the column or rename it")
        tools.append({"type": "function", "function": dict(function)})
    return tuple(tools)


def _refuse_media(values: Mapping[str, Any], where: str) -> None:
    for key in _MEDIA:
        if _holds(values.get(key)):
            expected, remedy = "text alone", "delete the rows with other media; only text can be used"
            raise DataError(where, expected=expected, got=f"content in {key!r}", remedy=remedy)


def _holds(value: Any) -> bool:
    """Return whether a value says something; 0 and false do."""
    return value not in (None, "", [], {})


def _from_json(text: str) -> Any:
    """Return the value of a JSON text, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
