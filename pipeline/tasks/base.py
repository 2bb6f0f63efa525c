"""What a task is: cases (what is asked, and the answers that are right), and how completions are measured.

A task gives fields and not a finished prompt: `task.template` in params.yaml says how a model is asked. It has no state
and opens no model. Its settings are a frozen dataclass of its own, which `pipeline.runtime.config.parse` fills from
`task.settings`. Not taken: one settings record for all tasks, where most fields would mean nothing; a metric as the
mean of a score, which BLEU is not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Split: TypeAlias = Literal["train", "heldout"]
Message: TypeAlias = dict[str, str]  # role and content, as chat templates take them


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question of a data set and its answers, as plain text."""

    case_id: str  # unique within the task, and the same for the same case when others are added
    split: Split
    fields: dict[str, str]  # what a template may name
    messages: tuple[Message, ...] = ()  # the conversation up to the answer, where the data are conversations
    references: tuple[str, ...]  # at least one; the first is what is learnt, all count in the measures


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A completion as a task's metrics see it."""

    text: str
    references: Sequence[str]
    score: float  # the task's own


class Task(Protocol):
    """What a task file provides. `pipeline.tasks.TASKS` holds one instance of each."""

    @property
    def headline(self) -> str:
        """The one of `metrics` that stands for the others."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of every case's fields."""

    @property
    def settings(self) -> type[Any]:
        """The dataclass of `task.settings`."""

    def cases(self, settings: Any) -> Iterable[Case]:
        """All cases of both splits, in an order that depends on the settings and the data alone."""

    def score(self, completion: str, references: Sequence[str]) -> float:
        """What one completion is worth: between 0 and 1; 1 for any of the references itself. Usable as a reward."""

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Name -> value over all completions. Every name has a line in pipeline.report.metric_titles."""


def mean(values: Sequence[float]) -> float:
    """Of the scores of one case each; there is at least one."""
    return sum(values) / len(values)
