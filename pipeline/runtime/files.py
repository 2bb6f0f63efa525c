"""Read Parquet and JSON files against a schema, and write them whole or not at all."""

import glob
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.atomic import replacing
from pipeline.runtime.errors import DataError


def json_text(value: Any) -> str:
    """Return a value as JSON with sorted keys, so that equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON with sorted keys."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(path, expected="a file", got="nothing", remedy="run `make repro`") from None
    except ValueError as error:
        raise DataError(path, expected="JSON", got=str(error), remedy="delete it and run `make repro`") from error


def write_rows(path: Path, records: Iterable[Any], schema: pa.Schema) -> int:
    """Write records as a Parquet file with the columns of `schema`, which are attributes of each record.

    Returns:
        The number of records, which may be 0.
    """
    rows = [{name: getattr(record, name) for name in schema.names} for record in records]
    table = pa.Table.from_pylist(rows, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return len(rows)


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file.

    Columns that may be null may be absent, because files of earlier versions lack them.

    Raises:
        DataError: The file is missing or damaged, or its schema has another name, version or columns.
    """
    if not path.is_file():
        raise DataError(path, expected="a Parquet file", got="nothing", remedy="run `make repro`")
    remedy = "delete it and run `make repro`"
    try:
        table = pq.ParquetFile(path).read()  # read_table imports pandas, half a second
    except pa.ArrowInvalid as error:
        problem = str(error).splitlines()[0]
        raise DataError(path, expected="a Parquet file", got=problem, remedy=remedy) from error
    expected, got, read = (_description(part) for part in (schema, table.schema, _without_absent(schema, table)))
    if got != read:
        raise DataError(path, expected=expected, got=got, remedy=remedy)
    return table.to_pylist()


def _without_absent(schema: pa.Schema, table: pa.Table) -> pa.Schema:
    """Return a schema without the columns that a table need not have and has not."""
    for name in schema.names:
        if schema.field(name).nullable and name not in table.column_names:
            schema = schema.remove(schema.get_field_index(name))
    return schema


def _description(schema: pa.Schema) -> str:
    name = (schema.metadata or {}).get(b"schema", b"no schema").decode()
    return f"{name} ({', '.join(schema.names)})"


def visible_files(root: Path, pattern: str) -> list[str]:
    """Return the non-empty files that match a pattern, sorted, without hidden ones such as unfinished writes."""
    paths = sorted(root.glob(pattern))
    hidden = [any(part.startswith(".") for part in path.relative_to(root).parts) for path in paths]
    return [str(path) for path, is_hidden in zip(paths, hidden, strict=True) if not is_hidden and _has_content(path)]


def literal_patterns(files: Iterable[str]) -> list[str]:
    """Return patterns that match these files alone, for DuckDB, which takes every name for a pattern."""
    return [glob.escape(file) for file in files]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # another process removed the file after the listing
        return False
