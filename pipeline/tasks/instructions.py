"""Follow instructions, whatever they ask: conversations, or tables with an instruction, an input and an output.

Conversations are lists of messages with role and content (as UltraChat has them); what comes before the last answer is
the prompt. Tables are Alpaca's and its kin. Guarantee: a prompt is in one split only (held-out wins); rows without an
answer are left out. ROUGE-L says little about free answers (Agarwal et al. use a judge): what tells a student's
progress is its divergence from the teacher and the teacher's log-likelihood of its completions, which the evaluation
measures for every task. Not taken: ShareGPT's `from` and `value`; rename them first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.hashing import digest
from pipeline.metrics.rouge import rouge_l
from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Case, Judged, Message, Split, mean
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import Row, merge_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSettings(RowSettings):
    """`task.settings` of instructions: `messages_column`, or else the others."""

    messages_column: str | None
    """Of conversations; null for the other shape."""
    instruction_column: str | None
    input_column: str | None
    """What the instruction is about, often empty; null where there is no such column."""
    output_column: str | None

    def __post_init__(self) -> None:
        """Refuse two shapes, and none."""
        table = self.instruction_column is not None and self.output_column is not None
        others = (self.instruction_column, self.input_column, self.output_column)
        if self.messages_column is None and not table:
            raise _mistake("a column, or instruction_column and output_column", "null")
        if self.messages_column is not None and any(others):
            raise _mistake("null where the other columns are named", repr(self.messages_column))


class Instructions:
    """ROUGE-L; the fields are the instruction, the input, and both as one request."""

    headline = "rouge_l"
    fields = ("instruction", "input", "request")
    settings = InstructionSettings

    def cases(self, settings: InstructionSettings) -> list[Case]:
        """Held-out cases, then training cases, in the order of the rows. Identified by their prompt's text."""
        return merge_cases(_cases(settings))

    def score(self, completion: str, references: Sequence[str]) -> float:
        """ROUGE-L F1."""
        return rouge_l(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The mean ROUGE-L F1."""
        return {"rouge_l": mean([one.score for one in judged])}


def _cases(settings: InstructionSettings) -> Iterator[Case]:
    named = (settings.messages_column, settings.instruction_column, settings.input_column, settings.output_column)
    for split, row in iter_splits(settings, [one for one in named if one is not None]):
        case = _conversation(split, row, settings) if settings.messages_column else _triple(split, row, settings)
        if case is not None:
            yield case


def _conversation(split: Split, row: Row, settings: InstructionSettings) -> Case | None:
    said = row.messages(str(settings.messages_column))
    while said and said[-1]["role"] != "assistant":
        said.pop()
    asked = [one["content"] for one in said[:-1] if one["role"] == "user"]
    return _case(split, said[:-1], asked[-1], "", said[-1]["content"]) if asked else None


def _triple(split: Split, row: Row, settings: InstructionSettings) -> Case | None:
    instruction = row.text(str(settings.instruction_column)).strip()
    given = row.text(settings.input_column).strip() if settings.input_column else ""
    messages = [{"role": "user", "content": _request(instruction, given)}]
    return _case(split, messages, instruction, given, row.text(str(settings.output_column)))


def _case(split: Split, messages: list[Message], instruction: str, given: str, answer: str) -> Case | None:
    if not instruction.strip() or not answer.strip():
        return None
    return Case(
        case_id=f"instructions/{digest(messages, size=8)}",
        split=split,
        fields={"instruction": instruction, "input": given, "request": _request(instruction, given)},
        messages=tuple(messages),
        references=(answer.strip(),),
    )


def _request(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given else instruction


def _mistake(expected: str, got: str) -> ParameterError:
    return ParameterError("task.settings.messages_column", expected=expected, got=got, remedy="mend params.yaml")
