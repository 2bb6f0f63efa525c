"""Make cases of the rows of a table, the same way for every task of questions and answers.

* Guarantee: a question is in one split only, and the held-out split wins. A question that occurs again in its split
  adds its answers as references. Rows without a question or an answer are filtered.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, TypeAlias

from pipeline.core.hashing import digest
from pipeline.tasks.base import Case, Message
from pipeline.tasks.loading import Row, RowSettings, iter_splits

# The fields of a case, of which the first is the question, its answers, and its messages if there are some.
Content: TypeAlias = tuple[dict[str, str], Iterable[str], tuple[Message, ...]]


def table_cases(task: str, settings: RowSettings, content: Callable[[Row, Any], Content]) -> list[Case]:
    """Return held-out cases, then training cases, in the order of the rows.

    The identity of a case is the text of its messages, or else of its question.

    Args:
        task: The beginning of every case's id.
        settings: The data set; every setting whose name ends in `_column` names a column, or is None.
        content: Reads the content of a case from a row, given the settings.

    Raises:
        DataError: When the data cannot be read.
    """
    named = [getattr(settings, field.name) for field in fields(settings) if field.name.endswith("_column")]
    cases: list[Case] = []
    for split, row in iter_splits(settings, [column for column in named if column is not None]):
        values, answers, messages = content(row, settings)
        question = next(iter(values.values()))
        references = tuple(answer.strip() for answer in answers if answer.strip())
        if question.strip() and references:
            case_id = f"{task}/{digest(messages or question, size=8)}"
            cases.append(Case(case_id=case_id, split=split, fields=values, messages=messages, references=references))
    return merge_cases(cases)


def merge_cases(cases: Iterable[Case]) -> list[Case]:
    """Merge cases with the same id, in the order of their first occurrence.

    Args:
        cases: The cases of the held-out split, then those of the training split.

    Returns:
        One case per id. A case that occurs again in its split adds its references; in the other split it is dropped.
    """
    merged: dict[str, Case] = {}
    for case in cases:
        earlier = merged.setdefault(case.case_id, case)
        if earlier is not case and earlier.split == case.split:
            references = tuple(dict.fromkeys([*earlier.references, *case.references]))
            merged[case.case_id] = replace(earlier, references=references)
    return list(merged.values())
