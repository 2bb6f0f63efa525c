"""Follow instructions of any kind: conversations, or tables with an instruction, an input and an output.

* Conversations are lists of messages with `role` and `content`, as in UltraChat; the messages before the last answer
  are the prompt. ShareGPT's `from` and `value` must be renamed first. Tables have Alpaca's columns.
* Guarantee: a prompt is in one split only, and the held-out split wins. Rows without an answer are filtered.
* Limit: ROUGE-L measures free answers poorly (Agarwal et al. 2024 use a judge). Look at the student's divergence from
  the teacher and at the teacher's log-likelihood of its completions, which the evaluation reports for every task.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.core.hashing import digest
from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Case, Message, RougeL, Split
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import Row, merge_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSettings(RowSettings):
    """The section `task.settings` of instructions: either `messages_column` or the other columns."""

    messages_column: str | None
    """Column of the conversations; null for a table."""
    instruction_column: str | None
    """Column of the instructions; null for conversations."""
    input_column: str | None
    """Column of the texts that the instructions are about, which may be empty; null where there is no such column."""
    output_column: str | None
    """Column of the answers; null for conversations."""

    def __post_init__(self) -> None:
        """Refuse settings that name both kinds of columns, or none."""
        where = "task.settings.messages_column"
        others = (self.instruction_column, self.input_column, self.output_column)
        if self.messages_column is not None and any(others):
            expected = "null where the other columns are named"
            raise ParameterError(where, expected=expected, got=repr(self.messages_column))
        if self.messages_column is None and (self.instruction_column is None or self.output_column is None):
            raise ParameterError(where, expected="a column, or instruction_column and output_column", got="null")


class Instructions(RougeL):
    """Instructions, measured by ROUGE-L. The fields are the instruction, the input, and both as one request."""

    fields = ("instruction", "input", "request")
    settings = InstructionSettings

    def cases(self, settings: InstructionSettings) -> list[Case]:
        """Return held-out cases, then training cases, in the order of the rows. The prompt's text is the identity.

        Raises:
            DataError: When the data cannot be read.
        """
        return merge_cases(_cases(settings))


def _cases(settings: InstructionSettings) -> Iterator[Case]:
    columns = (settings.messages_column, settings.instruction_column, settings.input_column, settings.output_column)
    for split, row in iter_splits(settings, [column for column in columns if column is not None]):
        case = _conversation(split, row, settings) if settings.messages_column else _triple(split, row, settings)
        if case is not None:
            yield case


def _conversation(split: Split, row: Row, settings: InstructionSettings) -> Case | None:
    messages = row.messages(str(settings.messages_column))
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    *prompt, answer = messages or [{}]
    requests = [message["content"] for message in prompt if message["role"] == "user"]
    return _case(split, prompt, requests[-1], "", answer["content"]) if requests else None


def _triple(split: Split, row: Row, settings: InstructionSettings) -> Case | None:
    instruction = row.text(str(settings.instruction_column)).strip()
    text = row.text(settings.input_column).strip() if settings.input_column else ""
    messages = [{"role": "user", "content": _request(instruction, text)}]
    return _case(split, messages, instruction, text, row.text(str(settings.output_column)))


def _case(split: Split, messages: list[Message], instruction: str, text: str, answer: str) -> Case | None:
    if not instruction.strip() or not answer.strip():
        return None
    return Case(
        case_id=f"instructions/{digest(messages, size=8)}",
        split=split,
        fields={"instruction": instruction, "input": text, "request": _request(instruction, text)},
        messages=tuple(messages),
        references=(answer.strip(),),
    )


def _request(instruction: str, text: str) -> str:
    return f"{instruction}\n\n{text}" if text else instruction
