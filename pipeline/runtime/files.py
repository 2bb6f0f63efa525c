"""Parquet and JSON files: read them against a schema, write them whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for killed in path.parent.glob(f".tmp-{path.name}-*"):
        killed.unlink(missing_ok=True)
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, two spaces, newline: equal values give equal bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; a DataError when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(path, expected="a file", got="nothing", remedy="run `make repro`") from None
    except ValueError as error:
        raise DataError(path, expected="JSON", got=str(error), remedy="delete it and run `make repro`") from error


def write_rows(path: Path, records: Iterable[Any], schema: pa.Schema) -> int:
    """Write records, whose attributes are the columns of `schema`, as Parquet; returns their number, which may be 0."""
    rows = [{name: getattr(record, name) for name in schema.names} for record in records]
    table = pa.Table.from_pylist(rows, schema=schema)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return len(rows)


def read_rows(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a Parquet file, after checking that it was written in `schema`, by name, version and columns."""
    if not path.is_file():
        raise DataError(path, expected="a Parquet file", got="nothing", remedy="run `make repro`")
    try:
        table = pq.ParquetFile(path).read()  # read_table imports pandas, half a second
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise DataError(path, expected="a Parquet file", got=first, remedy="delete it and run `make repro`") from error
    wanted, found = _description(schema), _description(table.schema)
    if found != wanted:
        raise DataError(path, expected=wanted, got=found, remedy="delete it and run `make repro`")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _description(schema: pa.Schema) -> str:
    name = (schema.metadata or {}).get(b"schema", b"no schema").decode()
    return f"{name} ({', '.join(schema.names)})"


def visible_files(root: Path, pattern: str) -> list[str]:
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
