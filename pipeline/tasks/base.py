"""What a task is: cases (a prompt and its reference), and a score of a completion against the reference.

A task has no state and opens no model. Its settings are a frozen dataclass of its own, which `pipeline.params.parse`
fills from `task.settings`. Not taken: one settings record for all tasks, where most fields would mean nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Split: TypeAlias = Literal["train", "heldout"]
Metric: TypeAlias = Literal["rouge_l", "exact_match"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question of a data set and its answer, both as plain text."""

    case_id: str  # unique within the task, and the same for the same case when others are added
    split: Split
    prompt: str
    reference: str


class Task(Protocol):
    """What a task file provides. `pipeline.tasks.TASKS` holds one instance of each."""

    @property
    def metric(self) -> Metric:
        """The name under which `score` is reported."""

    @property
    def settings(self) -> type[Any]:
        """The dataclass of `task.settings`."""

    def cases(self, settings: Any) -> Iterable[Case]:
        """All cases of both splits, in an order that depends on the settings and the data alone."""

    def score(self, completion: str, reference: str) -> float:
        """Between 0 and 1; 1 for the reference itself."""
