"""Make cases of the rows of a table, the same way for every task of questions and answers.

* Guarantee: a question is in one split only, and the held-out split wins. A question that occurs again in its split
  adds its answers as references. Rows without a question or an answer are left out and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pipeline.core.hashing import digest
from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Case, Cases, Message, RowCounts, Split
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import Row

_LOUD = 0.1  # the share of rows left out above which the line is a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a row holds; the fields as in `Case`."""

    fields: dict[str, str]  # the first is the question
    answers: Iterable[str]
    messages: tuple[Message, ...] = ()
    answer: Message | None = None
    tools: tuple[dict[str, Any], ...] = ()
    all_turns: bool = False
    ignored: Iterable[str] = ()  # parts of the row that are not used, in words


def table_cases(task: str, settings: RowSettings, content: Callable[[Row, Any], Content | str]) -> Cases:
    """Return held-out cases, then training cases, in the order of the rows.

    The identity of a case is the text of its messages and the tools, or else of its question.

    Args:
        task: The beginning of every case's id.
        settings: The data set; every setting whose name ends in `_column` names a column, or is None.
        content: Reads the content of a row, given the settings, or returns why the row has none.

    Raises:
        DataError: When the data cannot be read, or all rows of a split are left out.
    """
    named = [getattr(settings, field.name) for field in fields(settings) if field.name.endswith("_column")]
    cases: list[Case] = []
    rows: Counter[Split] = Counter()
    left_out: dict[Split, Counter[str]] = {"heldout": Counter(), "train": Counter()}
    ignored: dict[Split, Counter[str]] = {"heldout": Counter(), "train": Counter()}
    for split, row in iter_splits(settings, [column for column in named if column is not None]):
        rows[split] += 1
        case = _case(task, split, content(row, settings))
        if isinstance(case, str):
            left_out[split][case] += 1
        else:
            cases.append(case[0])
            ignored[split].update(case[1])
    counts = [RowCounts(split=s, rows=rows[s], left_out=left_out[s], ignored=ignored[s]) for s in left_out]
    for count in counts:
        _require_cases(settings, count, named)
    return Cases(merge_cases(cases), counts)


def _case(task: str, split: Split, content: Content | str) -> tuple[Case, set[str]] | str:
    """Return a case and what of its row is not used, or why the row gives none."""
    if isinstance(content, str):
        return content
    question = next(iter(content.fields.values()))
    references = tuple(answer.strip() for answer in content.answers if answer.strip())
    if not question.strip():
        return "without a question"
    if not references:
        return "without an answer"
    identity = [content.messages or question, *([content.tools] if content.tools else [])]
    case = Case(
        case_id=f"{task}/{digest(*identity, size=8)}",
        split=split,
        fields=content.fields,
        messages=content.messages,
        answer=content.answer,
        tools=content.tools,
        all_turns=content.all_turns,
        references=references,
    )
    return case, set(content.ignored)


def _require_cases(settings: RowSettings, count: RowCounts, columns: Sequence[str | None]) -> None:
    if count.left_out and sum(count.left_out.values()) == count.rows:
        split = settings.train_split if count.split == "train" else settings.heldout_split
        named = ", ".join(filter(None, columns))
        expected, got = f"rows with a question and an answer in {named}", f"none of {count.rows:,}: {_listed(count)}"
        remedy = "correct the columns in task.settings or the data"
        raise DataError(f"{settings.data} ({split})", expected=expected, got=got, remedy=remedy)


def count_lines(cases: Cases) -> list[str]:
    """Return a line for each split with rows that were left out or used in part; more than a tenth is a warning."""
    lines = []
    for count in cases.counts:
        absent = sum(count.left_out.values())
        warning = "warning: " if absent > _LOUD * count.rows else ""
        if absent:
            lines.append(f"{warning}{count.split}: {absent:,} of {count.rows:,} rows are left out: {_listed(count)}")
        lines += [f"{count.split}: {rows:,} rows are used without {part}" for part, rows in count.ignored.items()]
    return lines


def _listed(count: RowCounts) -> str:
    return ", ".join(f"{rows:,} {reason}" for reason, rows in count.left_out.items())


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
