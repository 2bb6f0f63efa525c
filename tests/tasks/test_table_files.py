"""Tests of files of tables: each cell is the text that was written, and a mistake names its line."""

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runtime.errors import DataError
from pipeline.tasks.rows import Row
from pipeline.tasks.table_files import read_lines, read_table

# Cells that a reader of tables likes to take for something else.
CELLS = [
    "None",
    "NA",
    "NaN",
    "null",
    "",
    "True",
    "007",
    "1e5",
    "51.0",
    "1,234",
    "2024-05-01",
    " x ",
    "a\nb",
    "\u2028\x85\x0c",
]


def read(file: Path, content: str | bytes) -> list[dict[str, Any]]:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_table(file))


def texts(rows: list[dict[str, Any]], column: str = "a") -> list[str]:
    return [Row(values=row, where="").text(column) for row in rows]


def refusal(file: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(file, content)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{file} ")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_cells_of_csv_are_texts_as_they_are_written(tmp_path: Path, delimiter: str, end: str, mark: str) -> None:
    lines = [delimiter.join(["q", "a"])] + [delimiter.join(["x", f'"{cell}"']) for cell in CELLS]
    rows = read(tmp_path / "t.csv", mark + end.join(lines) + end)
    assert rows == [{"q": "x", "a": cell} for cell in CELLS]


def test_cells_without_quotes_are_texts_too(tmp_path: Path) -> None:
    plain = [cell for cell in CELLS if cell.isprintable() and "," not in cell]
    rows = read(tmp_path / "t.tsv", "q\ta\n" + "".join(f"x\t{cell}\n" for cell in plain) + "\n")
    assert texts(rows) == plain


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json"])
def test_values_of_json_are_texts_as_they_are_written(tmp_path: Path, suffix: str) -> None:
    """Also of several types in a column, and of columns that only some rows have."""
    written = [
        "51.0",
        "51",
        "1e5",
        "0.10",
        "-7",
        "12345678901234567890",
        "true",
        "null",
        "NaN",
        *map(json.dumps, CELLS),
    ]
    rows = read(tmp_path / f"t.{suffix}", "".join(f'{{"n": {n}, "a": {value}}}\r\n' for n, value in enumerate(written)))
    assert texts(rows) == [*written[:7], "", "", *CELLS]
    rows = read(tmp_path / f"u.{suffix}", '{"q": 1}\n\n{"q": ["x"], "a": {"b": 2}}\n{"late": 3}\n')
    assert rows == [{"q": 1}, {"q": ["x"], "a": {"b": 2}}, {"late": 3}]


@pytest.mark.parametrize(
    "document",
    [
        [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}],
        {"q": ["1", "2"], "a": ["x", "y"]},
        {"q": {"0": "1", "1": "2"}, "a": {"0": "x", "1": "y"}},
        {"data": [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]},
        {"data": {"0": {"q": "1", "a": "x"}, "1": {"q": "2", "a": "y"}}},
        {"version": 1, "tags": ["x"], "info": {"n": 2}, "data": [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]},
        {"dataset": {"version": "1", "rows": [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]}},
        {"first": {"q": "1", "a": "x"}, "second": {"q": "2", "a": "y"}},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_documents_have_many_forms(tmp_path: Path, document: Any, indent: int | None) -> None:
    rows = read(tmp_path / "t.json", json.dumps(document, indent=indent))
    assert rows == [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]


def test_an_object_may_be_the_only_row(tmp_path: Path) -> None:
    talk: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "add"}]}
    pair = {name: {"role": "assistant", "content": name} for name in ("chosen", "rejected")}
    for row in (
        talk,
        pair,
        {"q": "1"},
        {"q": "1", "a": ["x", "y"]},
        {"q": "1", "answers": {"text": ["x"], "start": [1]}},
    ):
        assert read(tmp_path / "t.json", json.dumps(row)) == read(tmp_path / "t.jsonl", json.dumps(row)) == [row]


def test_numbers_of_parquet_and_arrow_are_texts(tmp_path: Path) -> None:
    """A whole number in a column of floats has no point: pandas makes floats of whole numbers beside a null."""
    columns = {
        "int": pa.array([51, None]),
        "float": pa.array([51.0, float("nan")]),
        "single": pa.array([np.float32(0.1), None], pa.float32()),
        "date": pa.array(["2024-05-01", None]).cast(pa.date32()),
        "nested": pa.array([{"x": 1, "y": None}, {"x": None, "y": "z"}]),
    }
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "t.parquet")
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "packed.parquet.gz").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    for name in ("t.parquet", "file.arrow", "packed.parquet.gz"):
        first, second = read_table(tmp_path / name)
        assert [texts([first], column)[0] for column in list(columns)[:4]] == ["51", "51", "0.1", "2024-05-01"]
        assert [texts([second], column)[0] for column in list(columns)[:4]] == [""] * 4
        assert (first["nested"], second["nested"]) == ({"x": 1}, {"y": "z"})


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    odd = "a\u2028b\x0bc\x0cd\x1ce\x85f\rg"
    (tmp_path / "train.en").write_bytes(f"\ufeff{odd}\r\n\n{odd}".encode())
    assert list(read_lines(tmp_path / "train.en")) == [odd, "", odd]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"a": 1}\n\n{"a": \n', "line 3: expected a JSON object, got Expecting value (character 7)"),
        ("t.jsonl", '{"a": 1}\n[1]\n', "line 2: expected a JSON object, got list; write each row as"),
        ("t.json", '{"a": 1}\n{"a"\n', "line 2: expected a JSON object, got Expecting ':' delimiter"),
        ("t.json", '[{"a": 1},\n {"a": ]\n', "line 2: expected JSON, got Expecting value (character 8)"),
        ("t.json", '[{"a": 1}, 2]', "element 1: expected a JSON object, got int"),
        ("t.json", "7", "element 0: expected a JSON object, got int; write each row as {column: value}"),
        ("t.json", '"abc"', "element 0: expected a JSON object, got str"),
        ("t.json", '[["q", 1]]\n[["r", 2]]\n', "line 1: expected a JSON object, got list; write each row as {column:"),
        ("t.jsonl", '[{"a": 1}]\n[{"a": 2}]\n', "line 1: expected a JSON object, got list; write each row as {column:"),
        ("t.jsonl", '[{"role": "user"}]\n[]\n', 'line 1: expected a JSON object, got list; write each row as {"messa'),
        (
            "t.jsonl",
            '{"a": 1},\n{"a": 2}\n',
            "line 1: expected a JSON object, got Extra data (character 9); write each",
        ),
        (
            "t.json",
            '{\n"a": 1}\n{\n"a": 2}\n',
            "line 3: expected JSON, got Extra data (character 1); write each row on a",
        ),
        ("t.jsonl", '{\n"a": 1}\n', "line 1: expected a JSON object, got Expecting property name"),
        ("t.jsonl", '{"a": "\\ud83d"}\n', "line 1: expected Unicode, got half of a surrogate pair"),
        ("t.jsonl", "[" * 99_999, "line 1: expected JSON, got "),
        ("t.csv", 'q,a\n"x\ny",1\nz\n', "line 4: expected 2 cells (q, a), got 1; put quotes around"),
        ("t.csv", 'q,a\nx,1\ny,"2\nz,3\n', "line 3: expected cells, got unexpected end of data; put quotes"),
        ("t.csv", "q,a\rx,1\ry,2\r", "line 1: expected cells, got a carriage return as the end of a line; put quotes"),
        ("t.csv", "q,q\nx,1\n", "line 1: expected different names of columns, got q, q; rename a column"),
        ("t.csv", b"q,a\n\xe9,1\n", "line 2: expected UTF-8, got the byte 0xe9; save the file as UTF-8"),
        ("t.jsonl", '{"a": 1}\n'.encode("utf-16"), "line 1: expected UTF-8, got UTF-16, or no text; save the file"),
        ("t.csv", "q,a\n1,2\n".encode("utf-16-le"), "line 1: expected UTF-8, got UTF-16, or no text; save the file"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    assert refusal(tmp_path / name, content).startswith(message)


def test_several_lists_of_rows_in_a_document_are_refused(tmp_path: Path) -> None:
    document = {"train": [{"q": "1"}, {"q": "2"}], "test": [{"q": "3"}]}
    message = f"{tmp_path / 't.json'}: expected one list of rows, got lists under train, test; save each list as a file"
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        read(tmp_path / "t.json", json.dumps(document))


# Cells that begin or end with a quote, or have one within.
QUOTES = [
    '"Yes," she said.',
    '"Yes."',
    '5" disk',
    'say "hi"',
    '"',
    '""',
    '"""',
    '"open',
    'shut"',
    ' "x"',
    'x "y" ""z""',
]


@pytest.mark.parametrize("cell", [*QUOTES, *CELLS[:11]])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_quote_is_a_letter_in_a_table_with_tabs_that_has_no_quoting(tmp_path: Path, cell: str, end: str) -> None:
    for row in ([cell, "x"], ["x", cell], [cell, cell]):
        lines = [["q", "a"], ["x", "y"], row, ["x", "y"]]
        rows = read(tmp_path / "t.tsv", end.join("\t".join(cells) for cells in lines))
        assert rows == [dict(zip("qa", cells, strict=True)) for cells in lines[1:]]


@pytest.mark.parametrize("cell", [*QUOTES, *CELLS, "a\tb", 'a\n"b"\n\nc', '"\t"', "\n", "\n\t\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_with_tabs_may_be_quoted(tmp_path: Path, cell: str, quoting: Any) -> None:
    for row in ([cell, "x"], ["x", cell], [cell, cell]):
        lines = [["q", "a"], ["x", "y"], row, ["x", "y"]]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(lines)
        rows = read(tmp_path / "t.tsv", text.getvalue())
        assert rows == [dict(zip("qa", cells, strict=True)) for cells in lines[1:]]


def test_quotes_that_are_letters_swallow_no_line(tmp_path: Path) -> None:
    lines = [["q", "a"], ['"begin', "x"], ["y", "y"], ['end"', "z"]]
    rows = read(tmp_path / "t.tsv", "\n\n".join("\t".join(cells) for cells in lines))
    assert rows == [dict(zip("qa", cells, strict=True)) for cells in lines[1:]]


@pytest.mark.parametrize(("header", "cell"), [("text", "Hello, you; you|me"), ("a, b\tc", "x\ty")])
def test_tabs_divide_the_cells_of_a_file_tsv(tmp_path: Path, header: str, cell: str) -> None:
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(f"{header}\n{cell}\n".encode()))
    assert list(read_table(tmp_path / "t.tsv.gz")) == [dict(zip(header.split("\t"), cell.split("\t"), strict=True))]


def test_a_long_cell_is_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", f"a\n{'x' * 200_000}\n") == [{"a": "x" * 200_000}]
