"""Questions that end in a number: GSM8K (Cobbe et al. 2021) and every table with a question and a worked answer.

Guarantee: a question is in one split only (held-out wins), and no answer without a number gets in. The references
lose the calculator notes `<<48/2=24>>` of GSM8K, which no reader of the answer ever wrote. Cost: the published 8,792
rows in about half a second. Not taken: comparing the whole answer, which would score the wording of the steps.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.fingerprint import digest
from pipeline.tasks.base import Case, Split, mean
from pipeline.tasks.numbers import exact_match, final_number
from pipeline.tasks.rows import iter_rows

_NOTE = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kSettings:
    """`task.settings` of gsm8k."""

    data: str
    """A name on the hub, such as openai/gsm8k, or a directory that holds <split>.jsonl, .parquet or .csv."""
    config: str | None
    """The configuration on the hub (GSM8K: main); null for a directory."""
    train_split: str
    heldout_split: str
    question_column: str
    answer_column: str


class Gsm8k:
    """The right number or not."""

    headline = "exact_match"
    fields = ("question",)
    settings = Gsm8kSettings

    def cases(self, settings: Gsm8kSettings) -> Iterator[Case]:
        """Held-out cases, then training cases, in the order of the rows. Identified by their question's text."""
        seen: set[str] = set()
        splits: tuple[tuple[Split, str], ...] = (("heldout", settings.heldout_split), ("train", settings.train_split))
        columns = (settings.question_column, settings.answer_column)
        for split, name in splits:
            for question, answer in iter_rows(settings.data, config=settings.config, split=name, columns=columns):
                case = _case(split, question.strip(), answer, where=f"{settings.data} ({name})")
                if case.case_id not in seen:
                    seen.add(case.case_id)
                    yield case

    def score(self, completion: str, references: Sequence[str]) -> float:
        """1 when the final numbers are equal as numbers, else 0."""
        return exact_match(completion, references)

    def metrics(self, completions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """The share of completions that end in the right number."""
        return {"exact_match": mean(list(map(self.score, completions, references)))}


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
