"""Read the columns of one row of a data set.

A column is found by its name, or inside another column by a path with dots: `translation.de` of WMT,
`instances.0.output` of self-instruct. The error about a missing column lists the columns that exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row as `datasets` returns it, with checked access. Every method raises a DataError for a wrong column."""

    values: Mapping[str, Any]
    where: str  # data set, split and number of the row, for messages

    def text(self, column: str) -> str:
        """Return a text.

        Raises:
            DataError: When there is no such column, or it holds no text.
        """
        value = self._value(column)
        if not isinstance(value, str):
            raise self._wrong_type(column, "text", value)
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts; a single text is a list of one.

        Raises:
            DataError: When there is no such column, or it holds neither.
        """
        value = self._value(column)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._wrong_type(column, "text or a list of texts", value)
        return tuple(texts)

    def messages(self, column: str) -> list[Message]:
        """Return a conversation, with `role` and `content` of each message and nothing else.

        Raises:
            DataError: When there is no such column, or it holds no list of messages.
        """
        value = self._value(column)
        if not isinstance(value, list) or not all(map(_is_message, value)):
            raise self._wrong_type(column, "a list of messages with role and content", value)
        return [{"role": message["role"], "content": message["content"]} for message in value]

    def _value(self, column: str) -> Any:
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for key in column.split("."):
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, Mapping) and key in value:
                value = value[key]
            else:
                columns = ", ".join(value) if isinstance(value, Mapping) else f"{type(value).__name__}, no such part"
                expected, got = f"a column {column!r}", f"columns {columns}"
                raise DataError(self.where, expected=expected, got=got, remedy="fix task.settings")
        return value

    def _wrong_type(self, column: str, expected: str, value: Any) -> DataError:
        remedy = "fix the data or task.settings"
        return DataError(f"{self.where}.{column}", expected=expected, got=type(value).__name__, remedy=remedy)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))
