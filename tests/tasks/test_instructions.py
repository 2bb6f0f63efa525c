"""Tests of conversations and of tables as instructions."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.tasks.base import Case
from pipeline.tasks.instructions import Instructions, InstructionSettings

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": " 4 "},
    {"role": "user", "content": "Thanks"},
]


def settings(data: Path, **changes: Any) -> InstructionSettings:
    place = {"data": str(data), "config": None, "revision": None, "train_split": "train", "heldout_split": "test"}
    columns = {"instruction_column": "instruction", "input_column": "input", "output_column": "output"}
    return parse(InstructionSettings, place | columns | {"messages_column": None} | changes, where="task.settings")


CHAT = {"messages_column": "messages", "instruction_column": None, "input_column": None, "output_column": None}


def cases(root: Path, *rows: dict[str, Any], **changes: Any) -> list[Case]:
    for name, part in (("test", rows[:1]), ("train", rows[1:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return Instructions().cases(settings(root, **changes))


def test_a_table_gives_an_instruction_an_input_and_both(tmp_path: Path) -> None:
    rows = [("Add.", "1 2", "3"), ("Sing.", "", "La"), ("Hum.", "", " ")]
    table = [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows]
    addition, song = cases(tmp_path, *table)
    assert addition.fields == {"instruction": "Add.", "input": "1 2", "request": "Add.\n\n1 2"}
    assert addition.messages == ({"role": "user", "content": "Add.\n\n1 2"},)
    assert (addition.split, addition.references) == ("heldout", ("3",))
    assert song.fields == {"instruction": "Sing.", "input": "", "request": "Sing."}


def test_a_conversation_ends_with_its_last_answer(tmp_path: Path) -> None:
    short = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    unanswered = [{"role": "user", "content": "Hello?"}]
    long, brief = cases(tmp_path, *({"messages": talk} for talk in (TALK, short, unanswered)), **CHAT)
    assert long.messages == tuple(TALK[:4])
    assert long.fields["request"] == "2 + 2?"
    assert long.references == ("4",)
    assert (brief.messages, brief.references) == (tuple(short[:1]), ("Yes?",))


def test_messages_of_another_shape_are_refused(tmp_path: Path) -> None:
    sharegpt = {"messages": [{"from": "human", "value": "Hi"}]}
    with pytest.raises(
        DataError, match=r"row 0\.messages: expected a list of messages with role and content, got list"
    ):
        cases(tmp_path, sharegpt, sharegpt, **CHAT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_column": None}, "expected a column, or instruction_column and output_column, got null"),
        ({"messages_column": "m"}, "expected null where the other columns are named, got 'm'"),
    ],
)
def test_one_shape_has_to_be_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        settings(tmp_path, **changes)
    assert str(caught.value) == f"task.settings.messages_column: {message}; fix params.yaml"


@pytest.mark.parametrize(
    ("split", "prefix", "count"), [("alpaca_en_demo", "", 999), ("seed_tasks", "instances.0.", 175)]
)
def test_published_tables_read(split: str, prefix: str, count: int) -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[2] / "../shared/data")) / "instructions"
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    columns = {"input_column": f"{prefix}input", "output_column": f"{prefix}output"}
    halves = {"train_split": f"{split}[:50%]", "heldout_split": f"{split}[50%:]"}
    rows = Instructions().cases(settings(data, **columns, **halves))
    assert 0.9 * count < len(rows) <= count
    assert {case.split for case in rows} == {"train", "heldout"}
