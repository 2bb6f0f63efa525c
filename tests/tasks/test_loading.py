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
from pipeline.tasks.loading import RowSettings, find_splits, iter_rows, iter_splits

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
        f"{tmp_path}: expected dev{{.jsonl,.ndjson,.json,.parquet,.csv,.tsv,.arrow}} or dev.a (.gz or not), "
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
    ("name", "content"),
    [
        ("train.parquet", b"PAR1 is not enough"),
        ("train.arrow", b"nothing"),
        ("train.jsonl.gz", gzip.compress(b'{"q": "a", "a": "b"}\n', mtime=0)[:-9]),
    ],
)
def test_a_damaged_file_is_reported_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path).startswith(f"{tmp_path} (train): expected rows of a directory's file")


@pytest.mark.parametrize(("name", "content"), [("train.csv", b"q,a\n"), ("train.jsonl", b""), ("train.json", b"[]")])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "expected rows, got none; name another split" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["xlsx", "xls", "ods"])
def test_a_spreadsheet_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"train.{suffix}").write_bytes(b"PK")
    assert refusal(tmp_path) == (
        f"{tmp_path}: expected a file of text, got train.{suffix}, a spreadsheet; "
        "save it as train.csv (CSV UTF-8) in the same directory"
    )


NAMES = [
    "exp[1]",
    "a::b",
    "two words",
    "Größe",
    "a*b?",
    'it\'s "so"',
    "-x",
    "%20",
    "name=1",
    "a,b",
    "{x}",
    "#1",
    "$HOME",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As an absolute path, and as a relative one without a "./"; beside a directory that a pattern would match."""
    for directory, answers in ((name, ROWS), ("exp1", ROWS[:1]), ("ab", ROWS[:1])):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "train.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in answers), encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / name) == read(Path(name)) == ROWS
    assert read(tmp_path / name, "train[8:]") == ROWS[8:]
    assert find_splits(name, None) == {"train": []}


@pytest.mark.parametrize("data", ["/no/such/place", "./none", "~/no-such-place-at-all", "nope.jsonl", "nope.csv.gz"])
def test_a_path_that_is_no_directory_is_not_looked_for_on_the_hub(data: str) -> None:
    remedy = "correct the path in task.settings.data or --data"
    assert refusal(data) == f"{data}: expected a file or directory, got no such path; {remedy}"


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    assert "train.jsonl: expected a directory, got a file; name its directory in task" in refusal(
        tmp_path / "train.jsonl"
    )


def test_a_name_that_the_hub_does_not_give_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal("no-such-owner/no-such-set").startswith("no-such-owner/no-such-set (train): expected rows of a ")


def test_a_column_that_no_row_has_is_refused_and_the_others_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    (tmp_path / "test.jsonl").write_text('{"q": "x", "late": null}\n', encoding="utf-8")
    assert len(list(iter_splits(settings(tmp_path), ("q", "a", "late")))) == len(ROWS) + 1
    with pytest.raises(DataError) as caught:
        list(iter_splits(settings(tmp_path), ("q", "z")))
    assert str(caught.value) == f"{tmp_path}: expected a column 'z', got columns q, late, a; fix task.settings"


def test_a_part_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    assert "Unrecognized instruction format: all[x:]" in refusal(tmp_path, "train[x:]")
    assert "expected train[x]{.jsonl," in refusal(tmp_path, "train[x]")


def test_the_heldout_split_comes_first(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl")
    chosen = settings(tmp_path, train_split="train[:2]", heldout_split="train[9:]")
    rows = [(split, row.text("q")) for split, row in iter_splits(chosen, ("q",))]
    assert rows == [("heldout", ROWS[9]["q"]), ("train", ROWS[0]["q"]), ("train", ROWS[1]["q"])]


def test_files_that_the_hub_has_divided_are_one_split(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"train-0000{number}-of-00002.jsonl").write_text(f'{{"q": "{number}"}}\n', encoding="utf-8")
    assert find_splits(str(tmp_path), None) == {"train": []}
    assert [row.values["q"] for row in iter_rows(settings(tmp_path), "train", ["q"])] == ["0", "1"]
    assert [row.values["q"] for row in iter_rows(settings(tmp_path), "train[1:]", ["q"])] == ["1"]
    assert [row.values["q"] for row in iter_rows(settings(tmp_path), "train-00000-of-00002", ["q"])] == ["0"]
    (tmp_path / "train-00001-of-00002.jsonl").unlink()
    with pytest.raises(DataError, match="expected all of 2 files of train, got 1; fetch the others"):
        list(iter_rows(settings(tmp_path), "train", ["q"]))


def test_a_split_may_have_brackets_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine[1].jsonl").write_text('{"q": "a"}\n{"q": "b"}\n', encoding="utf-8")
    assert len(list(iter_rows(settings(tmp_path), "mine[1]", ["q"]))) == 2
    assert [row.values["q"] for row in iter_rows(settings(tmp_path), "mine[1][1:]", ["q"])] == ["b"]
