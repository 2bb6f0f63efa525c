"""Questions that end in a number: GSM8K (Cobbe et al. 2021) and every table with a question and a worked answer.

Guarantee: a question is in one split only (held-out wins; one that comes again adds its answer), and no answer without
a number gets in. The references lose the calculator notes `<<48/2=24>>` of GSM8K, which no reader of the answer ever
wrote. Cost: the published 8,792 rows in about half a second. Not taken: comparing the whole answer, which would score
the wording of the steps.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.hashing import digest
from pipeline.metrics.exact_match import exact_match, final_number
from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Case, Judged, Split, mean
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import merge_cases

_NOTE = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kSettings(RowSettings):
    """`task.settings` of gsm8k."""

    question_column: str
    answer_column: str


class Gsm8k:
    """The right number or not."""

    headline = "exact_match"
    fields = ("question",)
    settings = Gsm8kSettings

    def cases(self, settings: Gsm8kSettings) -> list[Case]:
        """Held-out cases, then training cases, in the order of the rows. Identified by their question's text."""
        return merge_cases(_cases(settings))

    def score(self, completion: str, references: Sequence[str]) -> float:
        """1 when the final numbers are equal as numbers, else 0."""
        return exact_match(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The share of completions that end in the right number."""
        return {"exact_match": mean([one.score for one in judged])}


def _cases(settings: Gsm8kSettings) -> Iterator[Case]:
    for split, row in iter_splits(settings, (settings.question_column, settings.answer_column)):
        question, answer = row.text(settings.question_column).strip(), row.text(settings.answer_column)
        yield _case(split, question, answer, where=row.where)


def _case(split: Split, question: str, answer: str, *, where: str) -> Case:
    if final_number(answer) is None:
        shown = repr(answer[:60])
        raise DataError(where, expected="an answer with a number", got=shown, remedy="mend task.settings.answer_column")
    return Case(
        case_id=f"gsm8k/{digest(question, size=8)}",
        split=split,
        fields={"question": question},
        references=(_NOTE.sub("", answer).strip(),),
    )
