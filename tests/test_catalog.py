"""Views over what exists, empty or not, and where the store holds a score."""

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import catalog
from pipeline.catalog import RUNS, connect, find_known, query
from pipeline.errors import StoreError, UserError
from pipeline.store import Location
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX

VIEWS = {
    "prompts": PROMPT.names,
    "rollouts": [*ROLLOUT.names, "filename"],
    "scores": [*INDEX.names, "filename"],
    "store": [*INDEX.names, "filename"],
    "runs": RUNS.names,
}


def _index_rows(keys: list[tuple[str, str]], scorer: str = "s") -> pa.Table:
    """An index whose rows have these keys and nothing else of interest."""
    plain: dict[str, object] = {"string": "", "int64": 0, "int32": 1, "float": 0.5, "bool": True}
    columns = {field.name: [plain[str(field.type)]] * len(keys) for field in INDEX}
    columns |= {"sequence_key": [key for key, _ in keys], "support_key": [key for _, key in keys]}
    return pa.Table.from_pydict(columns | {"scorer": [scorer] * len(keys)}, schema=INDEX)


def _segment(root: Path, name: str, keys: list[tuple[str, str]], scorer: str = "s") -> Path:
    path = root / "segments" / name / "index.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(_index_rows(keys, scorer), path)
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


def test_nothing_is_known_in_an_empty_store(tmp_path: Path) -> None:
    assert find_known(tmp_path / "nowhere", "s", [("a", "0")]) == []
    _segment(tmp_path, "seg1", [])
    assert find_known(tmp_path, "s", [("a", "0")]) == []
    assert find_known(tmp_path, "s", []) == []


def test_unfinished_segments_are_not_seen(tmp_path: Path) -> None:
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host").mkdir(parents=True)
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host/index.parquet").write_bytes(b"half")
    assert find_known(tmp_path, "s", [("a", "0")]) == []
    connection = connect(tmp_path, tmp_path, tmp_path)
    assert query(connection, "SELECT count(*) FROM store") == (["count_star()"], [(0,)])
    assert query(connection, "SELECT count(*) FROM scores")[1] == [(0,)]


def test_a_segment_that_vanishes_meanwhile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _segment(tmp_path, "seg1", [("a", "0")])
    _segment(tmp_path, "seg2", [("b", "0")])
    listed = catalog._files

    def list_then_remove(root: Path, pattern: str) -> list[str]:
        files = listed(root, pattern)
        shutil.rmtree(tmp_path / "segments/seg1", ignore_errors=True)
        return files

    monkeypatch.setattr(catalog, "_files", list_then_remove)
    got = find_known(tmp_path, "s", [("a", "0"), ("b", "0")])
    assert got == [Location(key=("b", "0"), segment="seg2", row=0)]


def test_a_damaged_index_is_an_error_that_names_it(tmp_path: Path) -> None:
    (_segment(tmp_path, "seg1", [("a", "0")]) / "index.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(StoreError, match="seg1") as caught:
        find_known(tmp_path, "s", [("a", "0")])
    assert "\n" not in str(caught.value)


def test_many_keys_take_one_quick_query(tmp_path: Path) -> None:
    keys = [(f"{number:064x}", "0" * 64) for number in range(100_000)]
    for part in range(4):
        _segment(tmp_path, f"seg{part}", keys[part * 25_000 : (part + 1) * 25_000])
    begin = time.process_time()
    got = find_known(tmp_path, "s", keys)
    assert time.process_time() - begin < 10  # about 0.5 s: a quadratic join would take minutes
    assert [one.key for one in got] == keys


def test_views_without_files_are_empty_and_have_their_columns(tmp_path: Path) -> None:
    connection = connect(tmp_path / "work", tmp_path / "logs", tmp_path / "store")
    for name, columns in VIEWS.items():
        assert query(connection, f"SELECT * FROM {name}") == (columns, [])


def test_views_with_files(tmp_path: Path) -> None:
    work = tmp_path / "it's work"
    (work / "prompts").mkdir(parents=True)
    (work / "rounds/0").mkdir(parents=True)
    pq.write_table(PROMPT.empty_table(), work / "prompts/prompts.parquet")
    pq.write_table(ROLLOUT.empty_table(), work / "rounds/0/rollouts.parquet")
    pq.write_table(_index_rows([("a", "0")]), work / "rounds/0/index.parquet")
    _segment(tmp_path / "store", "seg1", [("b", "0"), ("c", "0")])
    for student, extra in (("x", ""), ("y", ",kl")):
        (tmp_path / "logs" / student).mkdir(parents=True)
        text = f"student,round,step,loss{extra}\n{student},0,1,0.5{extra and ',2'}\n"
        (tmp_path / "logs" / student / "train.csv").write_text(text)
    (tmp_path / "logs/train.csv").write_text("")  # a run that has just begun
    connection = connect(work, tmp_path / "logs", tmp_path / "store")

    for name, columns in VIEWS.items():
        got, _ = query(connection, f"SELECT * FROM {name}")
        assert got == (columns if name != "runs" else [*columns, "kl"])
    assert query(connection, "SELECT sequence_key FROM scores")[1] == [("a",)]
    assert query(connection, "SELECT sequence_key FROM store ORDER BY 1")[1] == [("b",), ("c",)]
    columns, rows = query(connection, "SELECT student, round, step, loss, kl FROM runs ORDER BY student")
    assert columns == ["student", "round", "step", "loss", "kl"]
    assert rows == [("x", "0", 1, 0.5, None), ("y", "0", 1, 0.5, 2)]


def test_types_are_the_same_with_and_without_files(tmp_path: Path) -> None:
    _segment(tmp_path / "store", "seg1", [])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/train.csv").write_text("student,round,step,loss\n")
    full = connect(tmp_path, tmp_path / "logs", tmp_path / "store")
    empty = connect(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    for name in ("store", "runs"):
        described = [query(one, f"SELECT column_name, column_type FROM (DESCRIBE {name})") for one in (full, empty)]
        assert described[0] == described[1]


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT 1 +", "SELECT 'a'::INT"])
def test_a_mistake_in_sql_is_one_line(tmp_path: Path, sql: str) -> None:
    connection = connect(tmp_path, tmp_path, tmp_path)
    with pytest.raises(UserError, match="query: expected SQL that DuckDB runs") as caught:
        query(connection, sql)
    assert "\n" not in str(caught.value)
