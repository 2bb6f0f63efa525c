"""SQL over the files that the pipeline leaves: the only module that knows DuckDB.

Guarantee: nothing is written and nothing is kept. The database lives in memory, its views name the files that exist
now, and a view without files is empty with the columns it would have. `find_known` says where the store holds a
score, in one query over all indexes, however many keys there are.
Cost: 1e5 keys against 1e5 stored sequences take about .7 s, so ask once a stage and never once a
step.
Not taken: a database file beside the segments (a second truth, which two writers would have to share).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import StoreError, UserError
from pipeline.sequences import Key
from pipeline.store import Location
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX

_RUNS_FIELDS: list[Any] = [
    ("student", pa.string()),
    ("round", pa.string()),
    ("step", pa.int64()),
    ("loss", pa.float64()),
]
RUNS = pa.schema(_RUNS_FIELDS)
_FILENAME = pa.field("filename", pa.string())
_ATTEMPTS = 3  # a segment that vanishes while it is asked for is left out of the next attempt

_FIND = """
    SELECT sequence_key, support_key, place.file, place.row
    FROM (
        SELECT sequence_key, support_key, min({'file': filename, 'row': file_row_number}) AS place
        FROM read_parquet(?, filename = true, file_row_number = true)
        JOIN wanted USING (sequence_key, support_key)
        WHERE scorer = ?
        GROUP BY sequence_key, support_key
    )
    ORDER BY place
"""


_UNNEEDED = """
    SELECT DISTINCT filename FROM store
    EXCEPT
    SELECT filename FROM store SEMI JOIN needed USING (scorer, sequence_key, support_key)
"""


def find_known(store_root: Path, scorer: str, keys: Sequence[Key]) -> list[Location]:
    """Where the store holds each key that `scorer` has scored, ordered by segment and row; other keys are left out."""
    pairs = {"sequence_key": [sequence for sequence, _ in keys], "support_key": [support for _, support in keys]}
    wanted = pa.table({name: pa.array(values, pa.string()) for name, values in pairs.items()})
    failure = ""
    for _ in range(_ATTEMPTS):
        files = _files(store_root, "segments/*/index.parquet")
        if not files or not keys:
            return []
        try:
            rows = _find(files, scorer, wanted)
        except duckdb.Error as error:
            failure = _first_line(error)
            continue
        return [
            Location(key=(sequence, support), segment=Path(file).parent.name, row=row)
            for sequence, support, file, row in rows
        ]
    raise StoreError(
        store_root / "segments", expected="readable indexes", got=failure, remedy="delete the segment it names"
    )


def _find(files: list[str], scorer: str, wanted: pa.Table) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.register("wanted", wanted)
        rows: list[tuple[Any, ...]] = connection.execute(_FIND, [files, scorer]).fetchall()
        return rows


def unneeded(store_root: Path, works: Sequence[Path]) -> set[str]:
    """Names of the store's segments that hold no score which is in a segment under one of the `works`."""
    stored = _files(store_root, "segments/*/index.parquet")
    if not stored:
        return set()
    needed = [file for work in works for file in _files(work, "**/index.parquet")]
    with duckdb.connect() as connection:
        try:
            _parquet_view(connection, "store", stored, INDEX.append(_FILENAME))
            _parquet_view(connection, "needed", needed, INDEX.append(_FILENAME))
            rows = connection.execute(_UNNEEDED).fetchall()
        except duckdb.Error as error:
            raise StoreError(
                store_root, expected="readable indexes", got=_first_line(error), remedy="run `stillroom store repair`"
            ) from error
    return {Path(file).parent.name for (file,) in rows}


def connect(work: Path, logs: Path, store: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the views prompts, rollouts, scores, store and runs."""
    connection = duckdb.connect()
    _parquet_view(connection, "prompts", _files(work, "prompts/prompts.parquet"), PROMPT)
    _parquet_view(connection, "rollouts", _files(work, "**/rollouts.parquet"), ROLLOUT.append(_FILENAME))
    _parquet_view(connection, "scores", _files(work, "**/index.parquet"), INDEX.append(_FILENAME))
    _parquet_view(connection, "store", _files(store, "segments/*/index.parquet"), INDEX.append(_FILENAME))
    kinds = "{'student': 'VARCHAR', 'round': 'VARCHAR', 'step': 'BIGINT', 'loss': 'DOUBLE'}"
    _view(
        connection, "runs", _files(logs, "**/train.csv"), RUNS, f"read_csv(%s, union_by_name = true, types = {kinds})"
    )
    return connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a statement; what DuckDB refuses is a UserError."""
    try:
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        views = "prompts, rollouts, scores, store, runs"
        raise UserError(
            "query", expected="SQL that DuckDB runs", got=_first_line(error), remedy=f"the views are {views}"
        ) from error


def _parquet_view(connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema) -> None:
    filename = str(_FILENAME.name in schema.names).lower()
    _view(connection, name, files, schema, f"read_parquet(%s, filename = {filename})")


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema, reader: str) -> None:
    """A view over files, or an empty table of the same columns where there are none."""
    if not files:
        connection.register(f"no_{name}", schema.empty_table())
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM no_{name}")
        return
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {reader % f'[{listed}]'}")


def _files(root: Path, pattern: str) -> list[str]:
    """Files that hold something, without those of unfinished writes; sorted."""
    visible = (
        path
        for path in sorted(root.glob(pattern))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return [str(path) for path in visible if _holds_something(path)]


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # removed since the directory was listed
        return False


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
