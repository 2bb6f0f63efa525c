"""pipeline.runtime.files: a file is read only if it was written in the schema, and it is written whole."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runtime.atomic import replacing
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import read_json, read_rows, write_json, write_rows

SCHEMA = pa.schema([("name", pa.string()), ("ids", pa.list_(pa.int32()))], metadata={"schema": "stillroom.thing/1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A record."""

    name: str
    ids: list[int]


THINGS = [Thing(name="a", ids=[1, 2]), Thing(name="b", ids=[])]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "things.parquet"
    assert write_rows(path, THINGS, SCHEMA) == 2
    assert [Thing(**row) for row in read_rows(path, SCHEMA)] == THINGS
    assert write_rows(path, [], SCHEMA) == 0
    assert read_rows(path, SCHEMA) == []
    assert list(path.parent.iterdir()) == [path]


def test_equal_records_make_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path in paths:
        write_rows(path, THINGS, SCHEMA)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        SCHEMA.with_metadata({"schema": "stillroom.thing/2"}),
        SCHEMA.append(pa.field("more", pa.int8())),
        SCHEMA.with_metadata(None),
    ],
)
def test_a_file_of_another_schema_is_refused_with_both_named(tmp_path: Path, other: pa.Schema) -> None:
    path = tmp_path / "things.parquet"
    pq.write_table(other.empty_table(), path)
    with pytest.raises(DataError) as caught:
        read_rows(path, SCHEMA)
    assert str(caught.value).startswith(f"{path}: expected stillroom.thing/1 (name, ids), got ")
    assert str(caught.value).endswith("; delete it and run `make repro`")


def test_a_missing_table_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "things.parquet"
    with pytest.raises(DataError, match="expected a Parquet file, got nothing; run `make repro`"):
        read_rows(path, SCHEMA)
    write_rows(path, THINGS, SCHEMA)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"things\.parquet: expected a Parquet file, got .*; delete it and"):
        read_rows(path, SCHEMA)


def test_json_is_sorted_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"b": [1, 2.5], "a": None})
    assert path.read_text(encoding="utf-8") == '{\n  "a": null,\n  "b": [\n    1,\n    2.5\n  ]\n}\n'
    assert read_json(path) == {"a": None, "b": [1, 2.5]}


def test_missing_and_damaged_json_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(DataError, match="expected a file, got nothing; run `make repro`"):
        read_json(path)
    path.write_text('{"a": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"expected JSON, got .*; delete it and run `make repro`"):
        read_json(path)


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    write_json(path, "old")
    with pytest.raises(OSError, match="No space left"), replacing(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        _full_disk()
    monkeypatch.setattr(pq, "write_table", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_rows(tmp_path / "things.parquet", THINGS, SCHEMA)
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(path) == "old"
