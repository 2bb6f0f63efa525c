"""Tests of every kind of file, and of the errors about a wrong one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Case
from pipeline.tasks.loading import Row, RowSettings, find_splits, iter_rows, iter_splits
from pipeline.tasks.table import merge_cases

ROWS = [{"q": f'Größe {number}?\u2028, "ja"', "a": f"line\nof {number}"} for number in range(10)]
LINES = [f"Zeile {number} \u2028 \x85 end" for number in range(10)]  # what str.splitlines would break


def settings(data: Path | str, **changes: Any) -> RowSettings:
    place = {"data": str(data), "config": None, "revision": None, "train_split": "train", "heldout_split": "test"}
    return RowSettings(**(place | changes))


def read(data: Path, split: str = "train", columns: tuple[str, ...] = ("q", "a")) -> list[dict[str, str]]:
    return [{name: row.text(name) for name in columns} for row in iter_rows(settings(data), split, columns)]


def refusal(data: Path | str, split: str = "train", columns: tuple[str, ...] = ("q", "a")) -> str:
    with pytest.raises(DataError) as caught:
        for row in iter_rows(settings(data), split, columns):
            for name in columns:
                row.text(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(file: Path) -> None:
    table, kind = pa.Table.from_pylist(ROWS), file.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(table, file)
    elif kind == "arrow":
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        text = {
            "json": json.dumps(ROWS, indent=1),
            "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
            "csv": table.to_pandas().to_csv(index=False),
        }[kind]
        file.write_bytes(gzip.compress(text.encode(), mtime=0) if file.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "arrow", "jsonl.gz", "json.gz", "csv.gz"])
@pytest.mark.parametrize(("part", "expected"), [("", ROWS), ("[:20%]", ROWS[:2]), ("[-3:]", ROWS[-3:])])
def test_a_table_is_read_whole_or_in_part_and_nothing_is_left(
    tmp_path: Path, suffix: str, part: str, expected: list[dict[str, str]]
) -> None:
    write(tmp_path / f"train.{suffix}")
    assert read(tmp_path, f"train{part}") == expected
    assert [path.name for path in tmp_path.iterdir()] == [f"train.{suffix}"]


@pytest.mark.parametrize(("part", "expected"), [("", ROWS), ("[:20%]", ROWS[:2]), ("[-3:]", ROWS[-3:])])
def test_what_datasets_saved_to_disk_is_read(tmp_path: Path, part: str, expected: list[dict[str, str]]) -> None:
    """A directory a split, here of three files each."""
    whole = Dataset.from_list(ROWS)
    saved = DatasetDict(train=whole, test=whole.filter(lambda row: "3" in row["q"]))
    saved.save_to_disk(tmp_path / "kept", num_shards={"train": 3, "test": 1})
    assert read(tmp_path / "kept", f"train{part}") == expected
    assert read(tmp_path / "kept", "test") == ROWS[3:4]
    assert find_splits(str(tmp_path / "kept"), None) == {"test": [], "train": []}  # beside a dataset_dict.json


@pytest.mark.parametrize("names", [("train.q", "train.a"), ("q-train.txt", "a-train.txt"), ("train.q.gz", "train.a")])
@pytest.mark.parametrize(("part", "expected"), [("", slice(10)), ("[5:7]", slice(5, 7))])
def test_aligned_line_files_are_a_column_each(
    tmp_path: Path, names: tuple[str, str], part: str, expected: slice
) -> None:
    for name in names:
        text = "".join(f"{name[0]} {line}\n" for line in LINES).encode()
        (tmp_path / name).write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    rows = read(tmp_path, f"train{part}")
    assert rows == [{"q": f"{names[0][0]} {line}", "a": f"{names[1][0]} {line}"} for line in LINES[expected]]


def test_a_missing_split_lists_the_files_that_exist(tmp_path: Path) -> None:
    for name in ("train.jsonl", "dev.q"):
        (tmp_path / name).write_text("", encoding="utf-8")
    assert refusal(tmp_path, "dev") == (
        f"{tmp_path}: expected dev{{.jsonl,.json,.parquet,.csv,.arrow}} or dev.a (.gz or not), "
        "got dev.q, train.jsonl; correct the splits or columns in task.settings"
    )


def test_files_of_unequal_length_are_refused_and_the_longer_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.q").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (tmp_path / "train.a").write_text("eins\nzwei\n", encoding="utf-8")
    assert refusal(tmp_path) == (
        f"{tmp_path}: expected files of equally many lines for train, got 2 in one and more in train.q; "
        "fix the files; line n of each belongs together"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b"q,a\n", "expected rows, got none; name another split"),
        ("train.jsonl", b"", "expected rows, got none; name another split"),
        ("train.jsonl", b'{"q": "Who?", "a\n', "JSON parse error"),
        ("train.json", b'[{"q": "Who?"', "expected rows of a directory's file"),
        ("train.parquet", b"PAR1 is not enough", "expected rows of a directory's file"),
        ("train.arrow", b"nothing", "expected rows of a directory's file"),
        (
            "train.jsonl.gz",
            gzip.compress(b'{"q": "a", "a": "b"}\n', mtime=0)[:-9],
            "expected rows of a directory's file",
        ),
        ("train.csv", b"q,a\n\xff\xfe,1\n", "expected rows of a directory's file"),
    ],
)
def test_a_file_that_is_empty_or_damaged_is_reported_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path} (train): ")
    assert message in refusal(tmp_path)


def test_undecodable_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.q").write_bytes(b"\xe9t\xe9\n")
    (tmp_path / "train.a").write_bytes(b"ete\n")
    assert "codec can't decode byte 0xe9" in refusal(tmp_path)


@pytest.mark.parametrize("data", ["/no/such/place", "./none", "~/no-such-place-at-all"])
def test_a_path_that_is_no_directory_is_not_looked_for_on_the_hub(data: str) -> None:
    assert refusal(data) == f"{data}: expected a directory, got none there; correct task.settings.data"


def test_a_name_that_the_hub_does_not_give_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal("no-such-owner/no-such-set").startswith("no-such-owner/no-such-set (train): expected rows of a ")


def test_the_heldout_split_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    chosen = settings(tmp_path, train_split="train[:2]", heldout_split="train[9:]")
    rows = [(split, row.text("q")) for split, row in iter_splits(chosen, ("q",))]
    assert rows == [("heldout", ROWS[9]["q"]), ("train", ROWS[0]["q"]), ("train", ROWS[1]["q"])]


def row(**values: Any) -> Row:
    return Row(values=values, where="here row 3")


def test_columns_within_columns_have_dots() -> None:
    nested = row(**{"translation": {"de": "Hund"}, "instances": [{"output": "4"}], "a.b": "plain"})
    assert [nested.text(name) for name in ("translation.de", "instances.0.output", "a.b")] == ["Hund", "4", "plain"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("c", "here row 3: expected a column 'c', got columns a, b; fix task.settings"),
        ("b.z", "here row 3: expected a column 'b.z', got columns x; fix task.settings"),
        ("a.1", "here row 3: expected a column 'a.1', got columns list, no such part; fix task.settings"),
        ("b", "here row 3.b: expected text, got dict; fix the data or task.settings"),
    ],
)
def test_a_wrong_column_lists_those_that_exist(column: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        row(a=["one"], b={"x": 1}).text(column)
    assert str(caught.value) == message


def test_lists_of_texts_and_messages_are_read_and_nothing_else() -> None:
    talk = [{"role": "user", "content": "Hi", "id": 7}]
    record = row(text="a", texts=["a", "b"], mixed=["a", 1], null=None, talk=talk, half=[{"role": "user"}])
    assert (record.texts("text"), record.texts("texts"), record.text("text")) == (("a",), ("a", "b"), "a")
    assert record.messages("talk") == [{"role": "user", "content": "Hi"}]
    for column, method in (
        ("mixed", record.texts),
        ("null", record.texts),
        ("half", record.messages),
        ("text", record.messages),
    ):
        with pytest.raises(DataError, match=rf"^here row 3\.{column}: expected "):
            method(column)


def test_merging_keeps_heldout_cases_and_gathers_references() -> None:
    def case(name: str, split: Any, *references: str) -> Case:
        return Case(case_id=name, split=split, fields={"q": name}, references=references)

    merged = merge_cases(
        [case("a", "heldout", "1"), case("a", "heldout", "2", "1"), case("a", "train", "3"), case("b", "train", "4")]
    )
    assert merged == [case("a", "heldout", "1", "2"), case("b", "train", "4")]
