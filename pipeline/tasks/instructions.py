"""Follow instructions of any kind: conversations, or tables with an instruction, an input and an output.

* Conversations are lists of messages of OpenAI's or ShareGPT's form (`conversations` lists what is read); the messages
  before the last answer are the prompt. Tables have Alpaca's columns, or TRL's `prompt` and `completion`.
* Limit: ROUGE-L measures free answers poorly (Agarwal et al. 2024 use a judge). Look at the student's divergence from
  the teacher and at the teacher's log-likelihood of its completions, which the evaluation reports for every task.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Cases, RougeL
from pipeline.tasks.conversations import Conversation, earlier_messages, read_conversation, reference_text
from pipeline.tasks.loading import RowSettings
from pipeline.tasks.rows import Row
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

    def cases(self, settings: InstructionSettings) -> Cases:
        """Return held-out cases, then training cases, in the order of the rows. The prompt's text is the identity.

        Raises:
            DataError: When the data cannot be read.
        """
        return table_cases("instructions", settings, _conversation if settings.messages_column else _triple)


def _conversation(row: Row, settings: InstructionSettings) -> Content | str:
    return _talk(read_conversation(row, str(settings.messages_column)), settings)


def _talk(conversation: Conversation, settings: InstructionSettings) -> Content | str:
    """Return a conversation up to its last answer, or why it is left out."""
    turns, ignored = list(conversation.turns), set(conversation.ignored)
    while turns and not turns[-1].is_answer:
        ignored.add("messages after the last answer")
        turns.pop()
    if not turns:
        return "without an answer"
    *earlier, last = turns
    all_turns = settings.train_on == "all_assistant_turns"
    if last.excluded or (all_turns and any(turn.excluded for turn in earlier if turn.is_answer)):
        return "whose answers the data exclude from training"
    for turn in turns:
        if turn.is_empty and turn.keys_without_content:
            return f"with a message that has no key content, but {' and '.join(turn.keys_without_content)}"
    if any(turn.is_empty for turn in earlier):
        return "with an empty message"
    requests = [turn.message["content"] for turn in earlier if turn.message["role"] == "user"]
    answer = last.message | {"content": last.message["content"].strip()}
    return Content(
        fields=_fields(requests[-1] if requests else "", ""),
        answers=[reference_text(answer)],
        messages=tuple(turn.message for turn in earlier),
        answer=answer,
        tools=conversation.tools,
        all_turns=all_turns,
        ignored=ignored,
    )


def _triple(row: Row, settings: InstructionSettings) -> Content | str:
    column, output = str(settings.instruction_column), str(settings.output_column)
    if isinstance(row.value(column), list):  # TRL's prompt and completion as messages
        return _talk(read_conversation(row, column, output), settings)
    instruction = row.text(column).strip()
    fields = _fields(instruction, row.text(settings.input_column).strip() if settings.input_column else "")
    earlier = earlier_messages(row, (column, settings.input_column, output))
    messages = (*earlier, {"role": "user", "content": fields["request"]})
    return Content(fields=fields, answers=[row.text(output)], messages=messages)


def _fields(instruction: str, text: str) -> dict[str, str]:
    request = f"{instruction}\n\n{text}" if text else instruction
    return {"instruction": instruction, "input": text, "request": request}
