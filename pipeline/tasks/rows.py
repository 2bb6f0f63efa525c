"""One row of a data set, with checked access to its columns.

* A column is found by its name, or inside another column by a path with dots: `translation.de` of WMT,
  `instances.0.output` of self-instruct.
* Numbers, booleans and dates are read as their text. A column that a row lacks, or that is null, is empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.tasks.table_files import WrittenFloat, number_text, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. Every method raises a DataError for a value of another type."""

    values: Mapping[str, Any]
    where: str  # data set, split and number of the row, for messages

    def value(self, column: str) -> Any:
        """Return what a column holds, or None without such a column."""
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for key in column.split("."):
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, Mapping):
                value = value.get(key)
            else:
                return None
        return value

    def has(self, column: str) -> bool:
        """Return whether there is such a column, if only with null in it."""
        return column in self.values or self.value(column) is not None

    def text(self, column: str) -> str:
        """Return a text, which is empty where the column is missing or null.

        Raises:
            DataError: When the column holds a list, a mapping or bytes.
        """
        value = self.value(column)
        text = cell_text(value)
        if text is None:
            raise self.wrong_type(column, "text", value)
        return text

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts; a single text is a list of one.

        Raises:
            DataError: When the column holds neither.
        """
        value = self.value(column)
        texts = [cell_text(item) for item in value if item is not None] if isinstance(value, list) else None
        texts = [cell_text(value)] if texts is None else texts
        if None in texts:
            raise self.wrong_type(column, "text or a list of texts", value)
        return tuple(text for text in texts if text is not None)

    def wrong_type(self, column: str, expected: str, value: Any) -> DataError:
        """Return the error about a column with a value of another type."""
        remedy = "fix the data or task.settings"
        return DataError(f"{self.where}.{column}", expected=expected, got=_kind(value), remedy=remedy)


def _kind(value: Any) -> str:
    """Return the type of a value; for a list of mappings their keys too."""
    items = value if isinstance(value, list) else []
    keys = dict.fromkeys(key for item in items if isinstance(item, Mapping) for key in item)
    return f"a list of mappings with {', '.join(keys)}" if keys else type(value).__name__


def cell_text(value: Any) -> str | None:
    """Return the text of a value: empty for None, and None for what is no text, such as a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not isinstance(value, WrittenFloat):
        value = plain(value)  # NaN is no value
        return "" if value is None else number_text(value)
    if value is None or isinstance(value, int | float):
        return "" if value is None else str(value)
    text = plain(value)  # a date
    return text if isinstance(text, str) else None
