"""Tests of what becomes of the rows of a table: cases, or rows that are left out and counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError
from pipeline.tasks import TASKS
from pipeline.tasks.base import Case, Cases
from pipeline.tasks.table import count_lines, merge_cases

# The columns of a question and of its answer, by the task.
COLUMNS = {
    "gsm8k": ("question_column", "answer_column"),
    "instructions": ("instruction_column", "output_column"),
    "summarisation": ("document_column", "summary_column"),
    "translation": ("source_column", "target_column"),
}


def cases_of(task: str, root: Path, *train: tuple[Any, Any]) -> Cases:
    for split, rows in (("test", [("t", "1")]), ("train", train)):
        text = "".join(json.dumps({"q": q, "a": a} if q is not ... else {"a": a}) + "\n" for q, a in rows)
        (root / f"{split}.jsonl").write_text(text, encoding="utf-8")
    place = {"data": str(root), "config": None, "revision": None, "train_split": "train", "heldout_split": "test"}
    columns = dict(zip(COLUMNS[task], "qa", strict=True))
    if task == "instructions":
        columns |= {"messages_column": None, "input_column": None}
    cases = TASKS[task].cases(parse(TASKS[task].settings, place | columns, where="task.settings"))
    assert isinstance(cases, Cases)
    return cases


@pytest.mark.parametrize("task", COLUMNS)
def test_rows_without_a_question_or_an_answer_are_left_out_and_counted(task: str, tmp_path: Path) -> None:
    cases = cases_of(task, tmp_path, ("", "1"), (" \n", "2"), (None, "3"), (..., "4"), ("q", ""), ("r", None), ("s", 5))
    assert [(case.split, next(iter(case.fields.values())), case.references) for case in cases] == [
        ("heldout", "t", ("1",)),
        ("train", "s", ("5",)),
    ]
    assert count_lines(cases) == [
        "warning: train: 6 of 7 rows are left out: 4 without a question, 2 without an answer",
    ]


def test_a_tenth_of_the_rows_is_no_warning(tmp_path: Path) -> None:
    lines = count_lines(cases_of("gsm8k", tmp_path, ("", "1"), *((f"q{number}", "1") for number in range(9))))
    assert lines == ["train: 1 of 10 rows are left out: 1 without a question"]
    assert count_lines(cases_of("gsm8k", tmp_path, ("q", "1"))) == []


@pytest.mark.parametrize("task", COLUMNS)
def test_a_split_without_a_usable_row_is_an_error(task: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cases_of(task, tmp_path, ("", "1"), ("q", None))
    counts = "got none of 2: 1 without a question, 1 without an answer; correct the columns"
    assert f"{tmp_path} (train): expected rows with a question and an answer in " in str(caught.value)
    assert counts in str(caught.value)


def test_merging_keeps_heldout_cases_and_gathers_references() -> None:
    def case(name: str, split: Any, *references: str) -> Case:
        return Case(case_id=name, split=split, fields={"q": name}, references=references)

    merged = merge_cases(
        [case("a", "heldout", "1"), case("a", "heldout", "2", "1"), case("a", "train", "3"), case("b", "train", "4")]
    )
    assert merged == [case("a", "heldout", "1", "2"), case("b", "train", "4")]
