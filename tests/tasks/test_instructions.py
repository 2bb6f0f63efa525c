"""Tests of conversations and of tables as instructions."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.tasks.base import Cases
from pipeline.tasks.instructions import Instructions, InstructionSettings
from pipeline.tasks.table import count_lines

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


def cases(root: Path, *rows: dict[str, Any], **changes: Any) -> Cases:
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


def test_sharegpt_and_openai_give_the_same_case(tmp_path: Path) -> None:
    talk = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]
    same = [{"role": "developer", "content": "Be brief."}, {"role": "User", "content": "Hi"}]
    same += [{"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]
    (case,) = cases(tmp_path, {"messages": talk}, {"messages": same}, **CHAT)
    assert case.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    assert (case.answer, case.references) == ({"role": "assistant", "content": "Yes"}, ("Yes",))


def test_an_answer_may_be_a_call_and_tools_tell_cases_apart(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}
    talk = [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    rows: list[dict[str, Any]] = [{"messages": talk}, {"messages": talk, "tools": '[{"name": "add"}]'}]
    bare, equipped = cases(tmp_path, *rows, **CHAT)
    assert bare.references == equipped.references == ('{"arguments": {"a": 1, "b": 2}, "name": "add"}',)
    function = {"name": "add", "arguments": {"b": 2, "a": 1}}
    assert bare.answer == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
    assert (bare.tools, equipped.tools) == ((), ({"type": "function", "function": {"name": "add"}},))
    assert bare.case_id != equipped.case_id


def test_train_on_reaches_the_case(tmp_path: Path) -> None:
    rows = [{"messages": TALK}, {"messages": TALK[1:]}]
    assert not any(case.all_turns for case in cases(tmp_path, *rows, **CHAT))
    assert all(case.all_turns for case in cases(tmp_path, *rows, **CHAT, train_on="all_assistant_turns"))


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    """Nothing of a conversation is dropped without a line."""
    question, answer = {"role": "user", "content": "Hi", "lang": "en"}, {"role": "assistant", "content": "Ho"}
    silent = [question, {"role": "assistant", "content": None}, answer]
    excluded = [question, answer | {"content": "no", "weight": 0}, question | {"content": "So?"}, answer]
    talks = [TALK, [question, answer], silent, excluded, [question, answer | {"train": False}], [question]]
    rows = [{"messages": talk} for talk in talks]
    assert count_lines(cases(tmp_path, *rows, **CHAT)) == [
        "heldout: 1 rows are used without messages after the last answer",
        "warning: train: 3 of 5 rows are left out: 1 with an empty message, 1 whose answers the data exclude from "
        "training, 1 without an answer",
        "train: 2 rows are used without the key 'lang' of messages",
    ]
    every = cases(tmp_path, *rows, **CHAT, train_on="all_assistant_turns")
    assert [count.left_out["whose answers the data exclude from training"] for count in every.counts] == [0, 2]


def test_the_keys_of_messages_without_a_content_are_named(tmp_path: Path) -> None:
    talk = [{"role": "user", "message": "Hi"}, {"role": "assistant", "message": "Ho"}]
    with pytest.raises(DataError, match="none of 1: 1 with a message that has no key content, but role and message;"):
        cases(tmp_path, {"messages": TALK}, {"messages": talk}, **CHAT)


def test_prompts_and_completions_of_trl_are_texts_or_messages(tmp_path: Path) -> None:
    columns = {"instruction_column": "prompt", "output_column": "completion", "input_column": None}
    talk = {"prompt": TALK[:2], "completion": [{"role": "assistant", "content": "Yes?"}]}
    rows = [talk, talk | {"prompt": TALK[:4], "completion": "4"}, {"prompt": "Sing.", "completion": "La"}]
    short, long, text = cases(tmp_path, *rows, **columns)
    assert (short.messages, short.references) == (tuple(TALK[:2]), ("Yes?",))
    assert (long.messages, long.answer) == (tuple(TALK[:4]), {"role": "assistant", "content": "4"})
    assert (text.messages, text.answer) == (({"role": "user", "content": "Sing."},), None)


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


def test_a_table_may_have_a_system_message_and_a_history(tmp_path: Path) -> None:
    row = {"instruction": "And now?", "input": "", "output": "Dusk.", "history": [["When?", "At noon."]]}
    columns = {"messages_column": None, "instruction_column": "instruction", "output_column": "output"}
    other = {"instruction": "Sing.", "output": "La", "system": "", "history": None}
    case, plain = cases(tmp_path, row | {"system": "Be brief."}, other, **columns)
    assert plain.messages == ({"role": "user", "content": "Sing."},)
    assert [(message["role"], message["content"]) for message in case.messages] == [
        ("system", "Be brief."),
        ("user", "When?"),
        ("assistant", "At noon."),
        ("user", "And now?"),
    ]
    named, _ = cases(
        tmp_path,
        *[{"system": "Do it.", "output": "Done."}, {"system": "Go.", "output": "Gone."}],
        **columns | {"instruction_column": "system", "input_column": None},
    )
    assert named.messages == ({"role": "user", "content": "Do it."},)
    with pytest.raises(DataError, match="expected a list of pairs"):
        cases(tmp_path, row | {"history": ["When?"]}, other, **columns)
