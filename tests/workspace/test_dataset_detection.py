"""Tests of what is inferred from data of many shapes, and of what is told about data that fit nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.errors import DataError
from pipeline.workspace.data_inspection import DataRequest, inspect_data
from pipeline.workspace.dataset_detection import choose, find_rows, first_rows

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]


def detect(root: Path, *rows: dict[str, Any], task: str | None = None, **named: str) -> tuple[str, dict[str, str]]:
    (root / "v1.2 mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    splits = find_rows(str(root / "v1.2 mine.jsonl"), None, None, None)
    assert (splits["train_split"], splits["heldout_split"]) == ("v1.2 mine[:90%]", "v1.2 mine[90%:]")
    name, columns = choose("mine", task, named, first_rows(splits, named.values()))
    return name, {field.removesuffix("_column"): column for field, column in columns.items() if column}


@pytest.mark.parametrize(
    ("row", "task", "columns"),
    [
        ({"messages": TALK, "question": "x"}, "instructions", {"messages": "messages"}),
        ({"conversations": SHAREGPT, "id": "1"}, "instructions", {"messages": "conversations"}),
        ({"messages": json.dumps(TALK)}, "instructions", {"messages": "messages"}),
        ({"chosen": TALK, "rejected": TALK}, "instructions", {"messages": "chosen"}),
        ({"prompt": "a", "completion": "b"}, "instructions", {"instruction": "prompt", "output": "completion"}),
        (
            {"prompt": TALK[:1], "completion": TALK[1:]},
            "instructions",
            {"instruction": "prompt", "output": "completion"},
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "instructions",
            {"instruction": "prompt", "output": "chosen"},
        ),
        (
            {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": TALK[1:]},
            "instructions",
            {"instruction": "prompt", "output": "chosen"},
        ),
        ({"prompt": TALK[:1], "chosen": TALK}, "instructions", {"messages": "chosen"}),
        ({"question": "1 + 1?", "answer": 2}, "gsm8k", {"question": "question", "answer": "answer"}),
        ({"problem": "1 + 1?", "solution": "so 2"}, "gsm8k", {"question": "problem", "answer": "solution"}),
        ({"question": "Who?", "answer": "Ann"}, "instructions", {"instruction": "question", "output": "answer"}),
        (
            {"translation": {"de": "a", "en": "b"}},
            "translation",
            {"source": "translation.en", "target": "translation.de"},
        ),
        ({"text": "a", "summary": "b"}, "summarisation", {"document": "text", "summary": "summary"}),
    ],
)
def test_shapes_of_data(tmp_path: Path, row: dict[str, Any], task: str, columns: dict[str, str]) -> None:
    assert detect(tmp_path, row, row) == (task, columns)


def test_the_first_rows_decide_and_not_the_first_alone(tmp_path: Path) -> None:
    """The first answer has a number by chance, and its input is missing."""
    rows = [{"question": "When?", "answer": "in 1969", "context": None}, {"question": "Who?", "answer": "Ann"}]
    rows += [{"question": "Where?", "answer": "here", "context": "Ann is here."}]
    columns = {"instruction": "question", "input": "context", "output": "answer"}
    assert detect(tmp_path, *rows) == ("instructions", columns)


def test_only_the_first_rows_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "a", "answer": "1"}\n' * 100 + "damaged", encoding="utf-8")
    assert len(first_rows(find_rows(str(tmp_path), None, None, None), ())) == 100


@pytest.mark.parametrize(
    ("row", "named", "message"),
    [
        ({"text": "a", "id": 1}, {}, "got text, id; divide the texts into two columns, prompt and completion"),
        ({"chosen": "Human: a Assistant: b"}, {}, "got chosen; divide the texts into two columns"),
        ({"frage": "a", "antwort": "b"}, {}, "got frage, antwort; name them, such as --column answer_column=solution"),
        ({"q": "a", "a": "b"}, {"question": "q"}, "--column: expected one of: messages_column, "),
        ({"q": "a", "a": "b"}, {"question_column": "x"}, "mine: expected a column 'x', got columns q, a; fix --column"),
        ({"q": ["a"], "a": "b"}, {"question_column": "q"}, "mine.q: expected text for question_column, got list; fix"),
        ({"q": "a"}, {"messages_column": "q"}, "mine.q: expected a conversation for messages_column, got str; fix"),
    ],
)
def test_data_that_fit_nothing_are_told(
    tmp_path: Path, row: dict[str, Any], named: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        detect(tmp_path, row, **named)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", ["mine/train.jsonl", "a/b/c", "mine.xlsx", "./mine"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(data: str) -> None:
    with pytest.raises(DataError, match=f"^{data}: expected a file or directory, got no such path"):
        first_rows(find_rows(data, None, None, None), ())


def test_a_column_has_one_field_and_named_columns_win_over_messages(tmp_path: Path) -> None:
    row = {"input": "a", "output": "b", "messages": TALK}
    columns = {"instruction": "input", "output": "output"}
    assert detect(tmp_path, row, instruction_column="input") == ("instructions", columns)


def test_the_only_split_may_have_a_file_for_each_column(tmp_path: Path) -> None:
    for column in ("de", "en"):
        (tmp_path / f"train.{column}").write_text(
            "".join(f"{column} {number}\n" for number in range(30)), encoding="utf-8"
        )
    request = {"task": None, "config": None, "train_split": None, "heldout_split": None, "columns": {}}
    data = inspect_data(DataRequest(data=str(tmp_path), **request))
    assert (len(data.train), len(data.heldout)) == (27, 3)
    assert data.train[0].fields == {"source": "en 0"}


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        ([{"title": "x", "paragraphs": [{"context": "c", "qas": []}]}] * 3, "write each element of 'paragraphs'"),
        (
            [{"dialog": [{"speaker": "A", "utterance": "Hi"}]}] * 3,
            "write each element of 'dialog' (speaker, utterance)",
        ),
        (TALK * 3, 'write each conversation as one row, {"messages": [...]}'),
    ],
)
def test_rows_within_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], remedy: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    first = first_rows(find_rows(str(tmp_path), None, None, None), ())
    with pytest.raises(DataError) as caught:
        choose("mine", None, {}, first)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", ["notes.txt", "CHATS.JSONL", "chats"])
def test_a_file_of_another_form_is_refused_by_its_ending(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}: expected a file that ends in \.jsonl, .*; save it in one of these"):
        find_rows(str(tmp_path / name), None, None, None)


def test_conversations_are_found_behind_an_empty_row(tmp_path: Path) -> None:
    talks = [[], *([{"role": "user", "content": f"Hi {number}"}, TALK[1]] for number in range(19))]
    text = "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    request = {"task": None, "config": None, "columns": {}}
    data = inspect_data(
        DataRequest(data=str(tmp_path), train_split="train[10%:]", heldout_split="train[:10%]", **request)
    )
    assert data.task["settings"]["messages_column"] == "messages"


def test_a_column_with_conversations_is_named_where_its_name_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got items; add --column messages_column=items"):
        detect(tmp_path, {"items": TALK})
