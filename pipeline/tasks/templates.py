r"""Render a case as a prompt by the section `task.template`.

* One place for every kind of prompt: the tokenizer's chat template (`chat: true`; with `text: null` the data's own
  messages), a plain text ("Question: {question}\nAnswer:"), or a prefix as T5 expects ("translate English to German:
  {source}").
* Guarantee: a field that the task does not have is reported when the parameters are read. Templates are filled by
  str.format, which would also reach attributes, so the names are checked first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter

from pipeline.models.tokenizer import Chat, FilledText, check_variables
from pipeline.runtime.errors import ParameterError
from pipeline.tasks import Case, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateParams:
    """The section `task.template` of params.yaml."""

    text: str | None
    """The prompt, with the task's fields in braces. null uses the messages of the data, where there are any."""
    chat: bool
    """true: the text is a user's turn in the tokenizer's chat template. false: the text is the whole prompt."""
    system: str | None
    """A system message at the beginning of a chat; null for none."""
    variables: dict[str, object] = field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking, tools or date_string."""


def check_template(p: TemplateParams, fields: Sequence[str]) -> None:
    """Check a template against the fields of a task.

    Raises:
        ParameterError: When the template uses another field, or its parts do not go together.
    """
    if p.text is not None:
        _check_fields(p.text, fields)
    elif not p.chat:
        raise _error("chat", "true where text is null", "false", "give task.template.text, or set chat: true")
    if p.system is not None and not p.chat:
        raise _error("system", "null where chat is false", repr(p.system), "put it into task.template.text")
    if p.variables and not p.chat:
        raise _error("variables", "{} where chat is false", repr(p.variables), "remove them, or set chat: true")
    check_variables(p.variables, where="task.template.variables")


def render_template(p: TemplateParams, case: Case) -> str | list[Message]:
    """Return the prompt of a case: a text, or the messages of a chat.

    Raises:
        ParameterError: When `text` is null and the data have no messages, or both name a system message.
    """
    text = None if p.text is None else FilledText(list(_parts(p.text, case.fields)))
    if text is not None and not p.chat:
        return text
    messages = list(case.messages) if text is None else [{"role": "user", "content": text}]
    if not messages:
        raise _error("text", f"a text with {_listed(case.fields)}", "null, and data without messages", "give one")
    if p.system is None:
        return messages
    if messages[0]["role"] in ("system", "developer"):
        raise _error("system", "null where the data have system messages", repr(p.system), "remove one of the two")
    return [{"role": "system", "content": FilledText([(p.system, False)])}, *messages]


def prompt_of(p: TemplateParams, case: Case) -> str | Chat:
    """Return the prompt of a case as it is rendered: a text, or a chat with its tools and variables.

    Raises:
        ParameterError: When `text` is null and the data have no messages.
    """
    prompt = render_template(p, case)
    return prompt if isinstance(prompt, str) else Chat(messages=prompt, tools=case.tools, variables=p.variables)


def shortened_line(p: TemplateParams, cases: Sequence[Case]) -> list[str]:
    """Return a warning where a text is the prompt of conversations with more messages than one, else nothing."""
    count = sum(p.text is not None and len(case.messages) > 1 for case in cases)
    remedy = "set task.template.text to null, with a teacher that has a chat template"
    return [f"warning: {count:,} of {len(cases):,} cases lose their earlier messages; {remedy}"] if count else []


def answer_of(p: TemplateParams, case: Case) -> str | Message:
    """Return the first reference of a case: the data's message where their conversation is the prompt, else a text."""
    return case.answer if p.text is None and case.answer is not None else case.references[0]


def _parts(text: str, fields: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a filled template, each with whether it is data."""
    for literal, name, _, _ in Formatter().parse(text):
        yield literal, False
        if name is not None:
            yield fields[name], True


def _check_fields(text: str, fields: Sequence[str]) -> None:
    expected = f"a text with {_listed(fields)}"
    try:
        parts = [(name, form, conversion) for _, name, form, conversion in Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise _error("text", expected, f"{text!r} ({error})", "write {{ and }} for braces themselves") from error
    for name, form, conversion in parts:
        if name not in fields or form or conversion:
            raise _error("text", expected, f"{{{name}}}")
    if not parts:
        raise _error("text", expected, f"{text!r}, which is the same prompt for every case")


def _listed(fields: Sequence[str] | dict[str, str]) -> str:
    return " or ".join(f"{{{name}}}" for name in fields)


def _error(key: str, expected: str, got: str, remedy: str = "fix params.yaml") -> ParameterError:
    return ParameterError(f"task.template.{key}", expected=expected, got=got, remedy=remedy)
