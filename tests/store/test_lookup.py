"""Where the store holds a score."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.runtime.errors import StoreError
from pipeline.store import lookup as catalog
from pipeline.store.keys import score_keys
from pipeline.store.lookup import find_known
from pipeline.store.segment_writer import write_index
from pipeline.store.store import Location
from schemas.segment import INDEX


def _index_rows(keys: list[tuple[str, str]], scorer: str = "s") -> pa.Table:
    """An index whose rows have these keys and nothing else of interest."""
    plain: dict[str, object] = {"string": "", "int64": 0, "int32": 1, "float": 0.5, "bool": True}
    columns = {field.name: [plain.get(str(field.type))] * len(keys) for field in INDEX}
    columns |= {"score_key": score_keys(scorer, keys)}
    return pa.Table.from_pydict(columns, schema=INDEX)


def _segment(root: Path, name: str, keys: list[tuple[str, str]], scorer: str = "s") -> Path:
    path = root / "segments" / name / "index.parquet"
    path.parent.mkdir(parents=True)
    write_index(path, _index_rows(keys, scorer))
    return path.parent


def test_find_known(tmp_path: Path) -> None:
    _segment(tmp_path, "seg1", [("a", "0"), ("b", "0"), ("b", "1")])
    _segment(tmp_path, "seg2", [("c", "0"), ("a", "0")])
    _segment(tmp_path, "seg3", [("d", "0")], scorer="other")
    got = find_known(tmp_path, "s", [("b", "1"), ("a", "0"), ("c", "1"), ("c", "0"), ("d", "0"), ("a", "0")])
    assert got == [
        Location(key=("a", "0"), segment="seg1", row=0),
        Location(key=("b", "1"), segment="seg1", row=2),
        Location(key=("c", "0"), segment="seg2", row=0),
    ]


@pytest.mark.parametrize("name", ["run[12]", "a*", "a?", "a::b", "lr=0.1", "score_key=7", "it's ü", "-x"])
def test_every_name_of_a_directory_is_taken_literally(tmp_path: Path, name: str) -> None:
    """Beside directories that the name as a pattern matches: their scores are not this store's."""
    for beside in ("run1", "ab"):
        _segment(tmp_path / beside, "wrong", [("a", "0")])
    assert find_known(tmp_path / name, "s", [("a", "0")]) == []
    _segment(tmp_path / name, "right", [("a", "0")])
    assert find_known(tmp_path / name, "s", [("a", "0")]) == [Location(key=("a", "0"), segment="right", row=0)]


def test_nothing_is_known_in_an_empty_store(tmp_path: Path) -> None:
    assert find_known(tmp_path / "nowhere", "s", [("a", "0")]) == []
    _segment(tmp_path, "seg1", [])
    assert find_known(tmp_path, "s", [("a", "0")]) == []
    assert find_known(tmp_path, "s", []) == []


def test_unfinished_segments_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host").mkdir(parents=True)
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host/index.parquet").write_bytes(b"half")
    assert find_known(tmp_path, "s", [("a", "0")]) == []


def test_a_segment_that_vanishes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _segment(tmp_path, "seg1", [("a", "0")])
    _segment(tmp_path, "seg2", [("b", "0")])
    listed = catalog.visible_files

    def list_then_remove(root: Path, pattern: str) -> list[str]:
        files = listed(root, pattern)
        shutil.rmtree(tmp_path / "segments/seg1", ignore_errors=True)
        return files

    monkeypatch.setattr(catalog, "visible_files", list_then_remove)
    got = find_known(tmp_path, "s", [("a", "0"), ("b", "0")])
    assert got == [Location(key=("b", "0"), segment="seg2", row=0)]


def test_a_damaged_index_is_an_error_that_names_it(tmp_path: Path) -> None:
    (_segment(tmp_path, "seg1", [("a", "0")]) / "index.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(StoreError, match="seg1") as caught:
        find_known(tmp_path, "s", [("a", "0")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("older", [["seg1", "seg2"], ["seg2"]])
def test_an_index_of_an_older_format_is_an_error_with_a_remedy(tmp_path: Path, older: list[str]) -> None:
    for name in ("seg1", "seg2"):
        _segment(tmp_path, name, [("a", name)])
    for name in older:
        path = tmp_path / "segments" / name / "index.parquet"
        write_index(path, _index_rows([("a", name)]).drop_columns("score_key"))
    with pytest.raises(StoreError, match=r"score_key.*if an older version wrote them"):
        find_known(tmp_path, "s", [("a", "seg1")])


def test_many_keys_take_one_quick_query(tmp_path: Path) -> None:
    keys = [(f"{number:064x}", "0" * 64) for number in range(100_000)]
    for part in range(4):
        _segment(tmp_path, f"seg{part}", keys[part * 25_000 : (part + 1) * 25_000])
    begin = time.process_time()
    got = find_known(tmp_path, "s", keys)
    assert time.process_time() - begin < 10  # about 0.5 s: a quadratic join would take minutes
    assert [item.key for item in got] == keys
