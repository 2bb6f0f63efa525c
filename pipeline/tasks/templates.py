"""How a model is asked: the section `task.template`, from a case's fields or messages to what the tokenizer renders.

One place for every way: the tokenizer's chat template (`chat: true`, the task's own messages where `text` is null), a
plain text ("Question: {question}\\nAnswer:"), a prefix as T5 knows it ("translate English to German: {source}").
Guarantee: a field that the task does not have is told when the parameters are read. Not taken: Jinja, a second
language beside the chat template's; str.format reaches attributes too, so names are checked before it is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from pipeline.runtime.errors import ParameterError
from pipeline.tasks import Case, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateParams:
    """The section `task.template` of params.yaml."""

    text: str | None
    """What is said, with the task's fields in braces; null takes the messages of the data, where they have any."""
    chat: bool
    """Into the tokenizer's chat template, as a user's turn; false: the text as it is."""
    system: str | None
    """A system message in front of a chat; null has none."""


def check_template(p: TemplateParams, fields: Sequence[str]) -> None:
    """A ParameterError for a field that the task lacks, and for parts that do not go together."""
    if p.text is not None:
        _check_fields(p.text, fields)
    elif not p.chat:
        raise _mistake("chat", "true where text is null", "false", "give task.template.text, or set chat: true")
    if p.system is not None and not p.chat:
        raise _mistake("system", "null where chat is false", repr(p.system), "put it into task.template.text")


def render_template(p: TemplateParams, case: Case) -> str | list[Message]:
    """A plain text, or the messages of a chat."""
    if p.text is None and not case.messages:
        raise _mistake("text", f"a text with {_listed(case.fields)}", "null, and data without messages", "give one")
    if p.text is None:
        said = list(case.messages)
    else:
        text = p.text.format_map(case.fields)
        if not p.chat:
            return text
        said = [{"role": "user", "content": text}]
    return said if p.system is None else [{"role": "system", "content": p.system}, *said]


def _check_fields(text: str, fields: Sequence[str]) -> None:
    expected = f"a text with {_listed(fields)}"
    try:
        parts = [(name, form, how) for _, name, form, how in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise _mistake("text", expected, f"{text!r} ({error})", "write {{ and }} for braces themselves") from error
    for name, form, how in parts:
        if name not in fields or form or how:
            raise _mistake("text", expected, f"{{{name}}}", "mend params.yaml")
    if not parts:
        raise _mistake("text", expected, f"{text!r}, which asks the same in every case", "mend params.yaml")


def _listed(fields: Sequence[str] | dict[str, str]) -> str:
    return " or ".join(f"{{{name}}}" for name in fields)


def _mistake(key: str, expected: str, got: str, remedy: str) -> ParameterError:
    return ParameterError(f"task.template.{key}", expected=expected, got=got, remedy=remedy)
