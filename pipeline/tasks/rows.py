"""One row of a data set: its columns, and the cases that many rows make.

A column is found by its name, or within another by a path with dots: `translation.de` of WMT, `instances.0.output` of
self-instruct. A missing one lists those that exist.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Case, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What `datasets` gives for a row, with checked access."""

    values: Mapping[str, Any]
    where: str  # for messages

    def text(self, column: str) -> str:
        """A text."""
        value = self._value(column)
        if not isinstance(value, str):
            raise self._unlike(column, "text", value)
        return value

    def joined(self, column: str) -> str:
        """A text, or a list of sentences as one text."""
        return " ".join(self.texts(column))

    def texts(self, column: str) -> tuple[str, ...]:
        """A list of texts, or one text alone."""
        value = self._value(column)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise self._unlike(column, "text or a list of texts", value)
        return tuple(found)

    def messages(self, column: str) -> list[Message]:
        """A conversation: mappings with the texts `role` and `content`; what else they have is left out."""
        value = self._value(column)
        if not isinstance(value, list) or not all(map(_is_message, value)):
            raise self._unlike(column, "a list of messages with role and content", value)
        return [{"role": one["role"], "content": one["content"]} for one in value]

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
                known = ", ".join(value) if isinstance(value, Mapping) else f"{type(value).__name__}, no such part"
                raise DataError(
                    self.where, expected=f"a column {column!r}", got=f"columns {known}", remedy="mend task.settings"
                )
        return value

    def _unlike(self, column: str, expected: str, value: Any) -> DataError:
        remedy = "mend the data or task.settings"
        return DataError(f"{self.where}.{column}", expected=expected, got=type(value).__name__, remedy=remedy)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def merge_cases(cases: Iterable[Case]) -> list[Case]:
    """One case for each id: held-out wins, and a question that comes again in its split adds its references.

    The held-out cases come first. The order is that of the first occurrences.
    """
    found: dict[str, Case] = {}
    for case in cases:
        earlier = found.setdefault(case.case_id, case)
        if earlier is not case and earlier.split == case.split:
            references = tuple(dict.fromkeys([*earlier.references, *case.references]))
            found[case.case_id] = replace(earlier, references=references)
    return list(found.values())
