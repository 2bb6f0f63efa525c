"""Read the rows of one file of a table: JSON, JSON lines, CSV, Parquet or Arrow, gzipped or not.

* A cell of CSV is text, whatever it looks like: None, NA, 007, 1e5 and 2024-05-01 stay as they are written. So do the
  numbers of JSON, which keep their text beside their value. A missing value is None.
* A quote in CSV stands around a cell. In a table with tabs it is a letter, unless the file shows that it is not.
* Text is UTF-8, with or without a byte order mark. Only LF and CRLF end a line.
* Guarantee: a mistake is a DataError with the file and the line. The memory does not grow with the file, except for a
  JSON document, which is read whole.
* Cost: 0.1 s for 7,473 rows of JSON lines. A JSON document takes four times its size in memory. A
  table with tabs is read three times, the first two up to the row that shows what quotes are.
"""

import csv
import gzip
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runtime.errors import DataError
from pipeline.tasks.json_documents import is_message, rows_within

Values: TypeAlias = dict[str, Any]

_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # those of UTF-16 and UTF-32
_DELIMITERS = ",\t;|"
_ARROW_FILE = b"ARROW1"  # the beginning of a file; a stream begins otherwise
_BATCH_ROWS = 1_000


class WrittenFloat(float):
    """A number of JSON that is shown as it was written: 51.0, 1e5, 0.10."""

    def __init__(self, written: str) -> None:
        """Keep the text of the number."""
        self.written = written

    def __str__(self) -> str:
        """Return the text."""
        return self.written


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file without their ends.

    Raises:
        DataError: The file is not UTF-8.
    """
    return (text.removesuffix("\n").removesuffix("\r") for text in _decoded(file))


def read_table(file: Path) -> Iterator[Values]:
    """Yield the rows of a file whose ending is one of READERS, with ".gz" after it or not.

    Raises:
        DataError: A line is broken, or the text is not UTF-8.
    """
    return READERS[Path(file.name.removesuffix(".gz")).suffix](file)


def _opened(file: Path) -> Any:  # a stream of bytes
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")


def _decoded(file: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends."""
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1 and (line.startswith(_WIDE_MARKS) or b"\0" in line):
                raise _error(file, 1, "UTF-8", "UTF-16, or no text", "save the file as UTF-8 text")
            try:
                yield line.removeprefix(_MARK).decode() if number == 1 else line.decode()
            except UnicodeDecodeError as error:
                got, remedy = f"the byte 0x{line[error.start]:02x}", "save the file as UTF-8 (iconv -f latin1 -t utf-8)"
                raise _error(file, number, "UTF-8", got, remedy) from error


def _json(file: Path) -> Iterator[Values]:
    """Yield the rows of JSON lines or of a JSON document; the content decides, because either has either ending."""
    numbered = ((number, text) for number, text in enumerate(read_lines(file), 1) if text.strip())
    first, second = next(numbered, None), next(numbered, None)
    if first is None:
        return
    may_be_lines = ".jsonl" in file.suffixes or ".ndjson" in file.suffixes
    may_be_document = first[1].lstrip().startswith("[") or not may_be_lines
    if may_be_document and (second is None or not _is_json(first[1])):
        yield from _document_rows(file, _parse(file, 1, "\n".join(read_lines(file)), "JSON"))
        return
    for number, text in chain([first], [second] if second else [], numbered):
        yield _mapping(_parse(file, number, text, "a JSON object"), f"{file} line {number}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(file: Path, number: int, text: str, expected: str) -> Any:
    """Return the value of a JSON text that begins in a line."""
    remedy = "correct the line, which is one row, or delete it"
    try:
        value = json.loads(text, parse_float=WrittenFloat, parse_constant=_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _error(file, number, "Unicode", "half of a surrogate pair", remedy) from error
    except json.JSONDecodeError as error:
        got = f"{error.msg} (character {error.colno})"
        if error.msg == "Extra data":
            remedy = "write each row on a line of its own, or all rows as one list"
        raise _error(file, number + error.lineno - 1, expected, got, remedy) from error
    except (ValueError, RecursionError) as error:  # a number of more than 4,300 digits, or too many brackets
        raise _error(file, number, expected, " ".join(str(error).split())[:80], remedy) from error
    return value


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name


def _document_rows(file: Path, document: Any) -> Iterator[Values]:
    """Yield the rows of a list of objects, or those that an object holds."""
    rows = rows_within(document, file) if isinstance(document, dict) else document
    for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
        yield _mapping(row, f"{file} element {number}")


def _mapping(row: Any, where: str) -> Values:
    if not isinstance(row, dict):
        is_talk = isinstance(row, list) and any(map(is_message, row))
        remedy = 'write each row as {"messages": [...]}' if is_talk else "write each row as {column: value}"
        raise DataError(where, expected="a JSON object", got=type(row).__name__, remedy=remedy)
    return row


def _csv(file: Path) -> Iterator[Values]:
    """Yield the rows of a table of text; the first line names the columns and shows the delimiter."""
    csv.field_size_limit(sys.maxsize)
    delimiter = _delimiter(file)
    records = _records(file, delimiter, has_quotes=delimiter != "\t" or _has_quotes(file))
    header = next(records, None)
    if header is not None:
        names = _names(file, header[1])
        for _, cells in records:
            yield dict(zip(names, cells, strict=True))


def _records(file: Path, delimiter: str, *, has_quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row, the header first, with the number of the row's last line.

    Args:
        file: The file.
        delimiter: What divides the cells.
        has_quotes: Quotes stand around cells. Otherwise a quote is a letter.

    Raises:
        DataError: A row has more or fewer cells than the header, or a quote in it is broken.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    rows = csv.reader(_decoded(file), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in rows:
            header = header or cells
            if cells and len(cells) != len(header):
                expected, got = f"{len(header)} cells ({', '.join(header)})", str(len(cells))
                raise _error(file, start, expected, got, "put quotes around a cell with a delimiter or a line break")
            if cells:
                yield rows.line_num, cells
            start = rows.line_num + 1
    except csv.Error as error:
        remedy = "put quotes around the cell and double those in it, or save the file as CSV again"
        got = "a carriage return as the end of a line" if "new-line" in str(error) else str(error)
        raise _error(file, start, "cells", got, remedy) from error


def _has_quotes(file: Path) -> bool:
    """Return whether quotes stand around cells of a table with tabs, as in a spreadsheet's, or are letters.

    A file is read both ways, until one of them meets a mistake: then the other is right. Where both read a row, quotes
    stand around cells if they do so in the header, or around a cell with doubled quotes. A row over several lines, each
    of which has enough cells alone, shows that quotes are letters.
    """
    quoted, plain = (_records(file, "\t", has_quotes=has_quotes) for has_quotes in (True, False))
    is_header = True
    while (row := _next(quoted)) is not None:
        line, cells = row
        other = _next(plain)
        has_more_lines = other is not None and other[0] < line
        while other is not None and other[0] < line:
            other = _next(plain)
        if has_more_lines and other is not None:
            return False
        if other is None or (cells != other[1] and (is_header or '"' in "".join(cells))):
            return True
        is_header = False
    return False


def _next(records: Iterator[tuple[int, list[str]]]) -> tuple[int, list[str]] | None:
    """Return the next row, or None at the end or at a mistake."""
    try:
        return next(records, None)
    except DataError:
        return None


def _delimiter(file: Path) -> str:
    """Return the delimiter that divides the first line into the most cells; a tab before others in a file .tsv."""
    header = next(_decoded(file), "").split("\r")[0]
    if Path(file.name.removesuffix(".gz")).suffix == ".tsv" and ("\t" in header or not set(_DELIMITERS) & set(header)):
        return "\t"
    return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _names(file: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names):
        raise _error(file, 1, "different names of columns", ", ".join(names), "rename a column")
    return names


def _parquet(file: Path) -> Iterator[Values]:
    with _opened(file) as stream, pq.ParquetFile(stream) as table:
        for batch in table.iter_batches(_BATCH_ROWS):
            yield from _batch_rows(batch)


def _arrow(file: Path) -> Iterator[Values]:
    """Yield the rows of Arrow's format of streams, which `datasets` writes, or of files."""
    with _opened(file) as stream:
        is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
        stream.seek(0)
        if is_file:
            table = pa.ipc.open_file(stream)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
            yield from chain.from_iterable(map(_batch_rows, batches))
        else:
            yield from chain.from_iterable(map(_batch_rows, pa.ipc.open_stream(stream)))


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Values]:
    columns = [
        [_cell(value, kind) for value in column.to_pylist()]
        for kind, column in zip(batch.schema.types, batch.columns, strict=True)
    ]
    return (dict(zip(batch.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True))


def _cell(value: Any, kind: Any) -> Any:
    """Return a value, where a float has the digits of its own width: 0.1 in 32 bits is 0.1."""
    if isinstance(value, float) and kind in (pa.float32(), pa.float16()) and not math.isnan(value):
        return number_text(np.float32(value))
    return plain(value)


def number_text(value: float | np.float32) -> str:
    """Return a number without an exponent, and a whole number without a point."""
    return np.format_float_positional(value, trim="-")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: without keys whose value is null, with dates as text, and NaN as None.

    Columns of structures have the keys of all rows, so null and missing are the same there.
    """
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(part) for part in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, date | time | timedelta | Decimal) else value


READERS: dict[str, Callable[[Path], Iterator[Values]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".arrow": _arrow,
}


def _error(file: Path, line: int, expected: str, got: str, remedy: str) -> DataError:
    return DataError(f"{file} line {line}", expected=expected, got=got, remedy=remedy)
