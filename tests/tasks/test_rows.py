"""Tests of one row: cells as texts, and columns within columns."""

import datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.runtime.errors import DataError
from pipeline.tasks.rows import Row


def row(**values: Any) -> Row:
    return Row(values=values, where="here row 3")


def test_columns_within_columns_have_dots() -> None:
    nested = row(**{"translation": {"de": "Hund"}, "instances": [{"output": "4"}], "a.b": "plain"})
    assert [nested.text(name) for name in ("translation.de", "instances.0.output", "a.b")] == ["Hund", "4", "plain"]


@pytest.mark.parametrize("column", ["c", "b.z", "a.1", "null", "nan"])
def test_what_a_row_lacks_is_empty(column: str) -> None:
    record = row(a=["one"], b={"x": 1}, null=None, nan=float("nan"))
    assert (record.text(column), record.texts(column)) == ("", ("",))
    assert record.has(column) == (column in ("null", "nan"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (51, "51"),
        (51.0, "51"),
        (0.1, "0.1"),
        (1e20, "100000000000000000000"),
        (True, "true"),
        (Decimal("1.10"), "1.10"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 12), "2024-05-01 12:00:00"),
        (" None ", " None "),
    ],
)
def test_every_cell_has_a_text(value: Any, text: str) -> None:
    assert row(a=value).text("a") == text
    assert row(a=[value, None]).texts("a") == (text,)


def test_the_keys_of_mappings_are_named() -> None:
    with pytest.raises(DataError, match="expected text, got a list of mappings with speaker, text, id; fix"):
        row(a=[{"speaker": "A", "text": "Hi"}, {"id": 1}]).text("a")


@pytest.mark.parametrize("value", [["a"], {"x": 1}, b"bytes"])
def test_what_is_no_text_is_refused(value: Any) -> None:
    message = rf"^here row 3\.a: expected text, got {type(value).__name__}; fix the data or task\.settings$"
    with pytest.raises(DataError, match=message):
        row(a=value).text("a")
    with pytest.raises(DataError, match=r"expected text or a list of texts"):
        row(a=[value]).texts("a")
