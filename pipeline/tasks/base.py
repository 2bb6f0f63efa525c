"""The interface of a task: cases (a question and its right answers), and metrics of completions.

A task returns fields and not a finished prompt; `task.template` in params.yaml makes the prompt. A task has no state
and opens no model. Its settings are a frozen dataclass, which `pipeline.runtime.config.parse` fills from
`task.settings`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from pipeline.metrics.exact_match import exact_match
from pipeline.metrics.rouge import rouge_l

Split: TypeAlias = Literal["train", "heldout"]
# What chat templates take: role and content, and where the data have them tool_calls, name, reasoning_content...
Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question of a data set and its answers, as plain text."""

    case_id: str  # unique within the task, and independent of the other cases
    split: Split
    fields: dict[str, str]  # the names that a template may use
    messages: tuple[Message, ...] = ()  # the conversation up to the answer, where the data are conversations
    answer: Message | None = None  # the assistant's message that follows `messages`, where the data have it
    tools: tuple[dict[str, Any], ...] = ()  # the functions that the conversation may call
    all_turns: bool = False  # references train on every turn of the assistant, and not on the last alone
    references: tuple[str, ...]  # at least one; a student trains on the first, and metrics use all


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """What became of the rows of a split."""

    split: Split
    rows: int
    left_out: Mapping[str, int]  # rows that gave no case, by the reason, such as "without an answer"
    ignored: Mapping[str, int]  # rows that gave a case without a part of theirs, by the name of the part


class Cases(list[Case]):
    """Cases, and what became of the rows that they were made of."""

    def __init__(self, cases: Iterable[Case] = (), counts: Iterable[RowCounts] = ()) -> None:
        """Make the list; a task without rows gives no counts."""
        super().__init__(cases)
        self.counts = tuple(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A completion as a task's metrics see it."""

    text: str
    references: Sequence[str]
    score: float  # the task's score of the text


class Task(Protocol):
    """A task; `pipeline.tasks.TASKS` holds one instance of each."""

    headline: str  # The name of the metric that represents the task

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of every case's fields."""

    settings: type[Any]  # The dataclass of `task.settings`

    def cases(self, settings: Any) -> Iterable[Case]:
        """Return all cases of both splits, in an order that depends on the settings and the data alone.

        Raises:
            DataError: When the data cannot be read or are of the wrong shape.
            ParameterError: When the settings contradict each other.
        """

    def score(self, completion: str, references: Sequence[str]) -> float:
        """Return the score of one completion, from 0 to 1; a reference scores 1. It may serve as a reward."""

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return metrics of all completions by name. Every name has a title in pipeline.report.metric_titles."""


class ExactMatch:
    """The measure of tasks with a number as the answer: the final number is right or wrong."""

    headline = "exact_match"

    def score(self, completion: str, references: Sequence[str]) -> float:
        """Return 1 when the final numbers are equal, else 0."""
        return exact_match(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return the share of completions that end in the right number."""
        return {self.headline: mean([completion.score for completion in judged])}


class RougeL:
    """The measure of tasks with a text as the answer: ROUGE-L."""

    headline = "rouge_l"

    def score(self, completion: str, references: Sequence[str]) -> float:
        """Return the F-measure of ROUGE-L with the best reference."""
        return rouge_l(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return the mean F-measure of ROUGE-L."""
        return {self.headline: mean([completion.score for completion in judged])}


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)
