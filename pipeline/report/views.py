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

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import literal_patterns, visible_files
from schemas.comparison import COMPARISON
from schemas.heldout import HELDOUT
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX, INDEXES

# How DuckDB reads files, given their list and the columns of files.sql.
_PARQUET = "read_parquet({files}, filename = true, hive_partitioning = false, union_by_name = true)"
_JSON = "read_json({files}, filename = true, hive_partitioning = false, columns = {columns})"
_CSV = """(SELECT * FROM no_runs_files UNION ALL BY NAME SELECT * FROM read_csv({files}, filename = true,
    hive_partitioning = false, union_by_name = true,
    types = {{'student': 'VARCHAR', 'round': 'VARCHAR', 'step': 'BIGINT', 'loss': 'DOUBLE'}}))"""

VIEWS = (
    *("prompts", "rollouts", "scores", "store", "runs", "segments", "tokens", "ages", "coverage", "tails"),
    *("disagreement", "costs", "rounds_cost", "staleness", "duplicates", "completions"),
)


def connect(work: Path, logs: Path, store: Path) -> duckdb.DuckDBPyConnection:
    """Return a database in memory with the VIEWS of these directories."""
    connection = duckdb.connect()
    connection.execute(files(__package__).joinpath("files.sql").read_text(encoding="utf-8"))
    for name, schema in (
        *(("prompts_files", PROMPT), ("rollouts_files", ROLLOUT), ("tokens_files", COMPARISON)),
        ("completions_files", HELDOUT),
        *(("scores_files", INDEX), ("store", INDEX)),
    ):
        connection.register(f"no_{name}", schema.empty_table())
    indexes = visible_files(store, INDEXES)
    for name, paths, reader in (
        ("prompts_files", visible_files(work, "prompts/*.parquet"), _PARQUET),
        ("rollouts_files", visible_files(work, "**/rollouts.parquet"), _PARQUET),
        ("scores_files", visible_files(work, "**/index.parquet"), _PARQUET),
        ("store", indexes, _PARQUET),
        ("store_times", indexes, "read_blob({files})"),
        ("tokens_files", visible_files(work, "evaluations/*-*.parquet"), _PARQUET),
        ("completions_files", visible_files(work, "evaluations/prompts/*.parquet"), _PARQUET),
        ("manifests_files", visible_files(work, "**/manifest.json"), _JSON),
        ("runs_files", visible_files(logs, "**/train.csv"), _CSV),
        ("costs_files", visible_files(work, "costs/*.json"), _JSON),
    ):
        _view(connection, name, paths, reader)
    # The directories of a file below `work`.
    start = len(f"{work}/") + 1
    connection.execute(f"CREATE MACRO place(filename) AS string_split(substr(filename, {start}), '/')")
    connection.execute(files(__package__).joinpath("views.sql").read_text(encoding="utf-8"))
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


def _view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[str], reader: str) -> None:
    """Create a view over files with their columns and `filename`, or over the empty table `no_NAME` without files."""
    columns = {column: type_ for column, type_, *_ in connection.execute(f"DESCRIBE no_{name}").fetchall()}
    literal = duckdb.ConstantExpression(literal_patterns(paths))
    empty = f"(SELECT *, '' AS filename FROM no_{name})"
    source = reader.format(files=literal, columns=columns) if paths else empty
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {source}")
