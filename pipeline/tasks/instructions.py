"""Follow instructions of any kind: conversations, or tables with an instruction, an input and an output.

* Conversations are lists of messages with `role` and `content`, as in UltraChat; the messages before the last answer
  are the prompt. ShareGPT's `from` and `value` must be renamed first. Tables have Alpaca's columns.
* Limit: ROUGE-L measures free answers poorly (Agarwal et al. 2024 use a judge). Look at the student's divergence from
  the teacher and at the teacher's log-likelihood of its completions, which the evaluation reports for every task.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Case, RougeL
from pipeline.tasks.loading import Row, RowSettings
from pipeline.tasks.table import Content, table_cases


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
    train_on: Literal["last", "all_assistant_turns"] = "last"
    """What references train on in a conversation: the last answer, or every turn of the assistant."""

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
        return table_cases("instructions", settings, _conversation if settings.messages_column else _triple)


def _conversation(row: Row, settings: InstructionSettings) -> Content:
    messages = row.messages(str(settings.messages_column))
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    *prompt, answer = messages or [{"content": ""}]
    requests = [message["content"] for message in prompt if message["role"] == "user"]
    return _fields(requests[-1] if requests else "", ""), [answer["content"]], tuple(prompt)


def _triple(row: Row, settings: InstructionSettings) -> Content:
    instruction = row.text(str(settings.instruction_column)).strip()
    fields = _fields(instruction, row.text(settings.input_column).strip() if settings.input_column else "")
    return fields, [row.text(str(settings.output_column))], ({"role": "user", "content": fields["request"]},)


def _fields(instruction: str, text: str) -> dict[str, str]:
    request = f"{instruction}\n\n{text}" if text else instruction
    return {"instruction": instruction, "input": text, "request": request}
