"""SQL views of `stillroom query` over the files of a run and of the store.

* Nothing is written. The database is in memory, and its views read the files that exist when they are queried.
* A view without files is empty, with the columns that it has otherwise.
* The columns `student` and `round` are the directories that contain a file; what all students share has student '' and
  round 'corpus'. Quantities per token are means in nats per token.
* No stage but `report` imports this module, so a new view runs nothing else again.
* Cost: about ten milliseconds, and what the query reads.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import visible_files
from schemas.comparison import COMPARISON
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX, INDEXES

_FILENAME: Any = ("filename", pa.string())
_RUNS_FIELDS: list[Any] = [
    *((name, pa.string()) for name in ("student", "round")),
    *(("step", pa.int64()), ("loss", pa.float64()), ("compared_tokens", pa.int64())),
    *((name, pa.float64()) for name in ("staleness_kl", "effective_share", "clipped_share", "truncated_share")),
]
RUNS = pa.schema(_RUNS_FIELDS)
_COST_FIELDS: list[Any] = [
    *(("tokens", pa.int64()), ("seconds", pa.float64())),
    *((name, pa.int64()) for name in ("positions", "positions_reused", "payload_bytes", "steps", "steps_not_taken")),
    _FILENAME,
]
_MANIFEST_FIELDS: list[Any] = [
    *((name, pa.string()) for name in ("scorer", "teacher", "tokenizer", "engine", "dtype", "codec")),
    *((name, pa.int64()) for name in ("sequences", "positions", "head_entries", "draws", "union_entries")),
    ("measured", pa.struct([("positions", pa.int64()), ("forward_kl", pa.float64())])),
    ("files", pa.map_(pa.string(), pa.struct([("size_bytes", pa.int64())]))),
    _FILENAME,
]
_TIME_FIELDS: list[Any] = [_FILENAME, ("last_modified", pa.timestamp("us", tz="UTC"))]

# How DuckDB reads files, given their list and the columns of the view's schema.
_PARQUET = "read_parquet({files}, filename = true)"
_JSON = "read_json({files}, filename = true, columns = {columns})"
_CSV = """(SELECT * FROM no_runs UNION ALL BY NAME SELECT * FROM read_csv({files}, union_by_name = true,
    types = {{'student': 'VARCHAR', 'round': 'VARCHAR', 'step': 'BIGINT', 'loss': 'DOUBLE'}}))"""

VIEWS = (
    *("prompts", "rollouts", "scores", "store", "runs", "segments", "tokens", "ages", "coverage", "tails"),
    *("disagreement", "costs", "rounds_cost", "staleness", "duplicates"),
)


def connect(work: Path, logs: Path, store: Path) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the VIEWS of these directories."""
    connection = duckdb.connect()
    indexes, index = visible_files(store, INDEXES), _with_filename(INDEX)
    for name, paths, schema, reader in (
        ("prompts", visible_files(work, "prompts/prompts.parquet"), PROMPT, "read_parquet({files})"),
        ("rollouts_files", visible_files(work, "**/rollouts.parquet"), _with_filename(ROLLOUT), _PARQUET),
        ("scores_files", visible_files(work, "**/index.parquet"), index, _PARQUET),
        ("store", indexes, index, _PARQUET),
        ("store_times", indexes, pa.schema(_TIME_FIELDS), "read_blob({files})"),
        ("tokens_files", visible_files(work, "evaluations/*-*.parquet"), _with_filename(COMPARISON), _PARQUET),
        ("manifests_files", visible_files(work, "**/manifest.json"), pa.schema(_MANIFEST_FIELDS), _JSON),
        ("runs", visible_files(logs, "**/train.csv"), RUNS, _CSV),
        ("costs_files", visible_files(work, "costs/*.json"), pa.schema(_COST_FIELDS), _JSON),
    ):
        _view(connection, name, paths, schema, reader)
    # The directories of a file below `work`.
    start = len(f"{work}/") + 1
    connection.execute(f"CREATE MACRO place(filename) AS string_split(substr(filename, {start}), '/')")
    connection.execute(files(__package__).joinpath("views.sql").read_text())
    return connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the column names and the rows of a statement.

    Raises:
        UserError: DuckDB refuses the statement.
    """
    try:
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        got, views = str(error).splitlines()[0], ", ".join(VIEWS)
        raise UserError("query", expected="SQL that DuckDB runs", got=got, remedy=f"the views are {views}") from error


def _view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[str], schema: pa.Schema, reader: str) -> None:
    """Create a view over files, or over an empty table of the same columns (`no_NAME`) if there are none."""
    connection.register(f"no_{name}", schema.empty_table())
    described = connection.execute(f"DESCRIBE no_{name}").fetchall()
    columns = {column: type_ for column, type_, *_ in described if column != "filename"}
    source = reader.format(files=_literal(paths), columns=columns) if paths else f"no_{name}"
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")


def _with_filename(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field(*_FILENAME))


def _literal(texts: list[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"
