"""Find the rows within a JSON document that is an object.

People write rows in many forms: columns, also as pandas numbers them; rows by their names; or one list of rows under a
key, beside a version and other notes (SQuAD), also one level deeper.
"""

from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import DataError

_SPEAKERS = {"role", "from"}  # keys of a message, which is no row


def rows_within(document: dict[str, Any], file: Path) -> list[Any]:
    """Return the rows in an object, or the object as the only row.

    Args:
        document: The object.
        file: The file that it is in, for messages.

    Raises:
        DataError: Several of its values are lists of objects.
    """
    values = [_numbered(value) for value in document.values()]
    lists = [value for value in values if isinstance(value, list)]
    inner = [value for value in values if isinstance(value, dict)]
    if any(map(is_message, chain(inner, *lists))):
        return [document]
    tables = _tables(dict(zip(document, values, strict=True)))
    are_columns = len(lists) == len(values) and len({len(value) for value in lists}) == 1
    if are_columns and not len(lists) == len(tables) == 1:
        return [dict(zip(document, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if len(values) == len(inner) > 1 and len({frozenset(value) for value in inner}) == 1:  # rows by their names
        return inner
    if not lists and len(inner) == 1:  # the rows may be one level deeper
        tables = _tables(inner[0])
    if len(tables) > 1:
        remedy = "save each list as a file of its own"
        raise DataError(file, expected="one list of rows", got=f"lists under {', '.join(tables)}", remedy=remedy)
    return next(iter(tables.values()), [document])


def is_message(item: Any) -> bool:
    """Return whether a value of a document is a message of a conversation."""
    return isinstance(item, dict) and not _SPEAKERS.isdisjoint(item)


def _tables(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the values that are lists of objects, by their keys."""
    lists = {key: value for key, value in document.items() if isinstance(value, list) and value}
    return {key: value for key, value in lists.items() if all(isinstance(item, dict) for item in value)}


def _numbered(value: Any) -> Any:
    """Return the values of {"0": ..., "1": ...}, a column as pandas writes it, or else the value itself."""
    is_column = isinstance(value, dict) and value and all(key.isdecimal() for key in value)
    return list(value.values()) if is_column else value
