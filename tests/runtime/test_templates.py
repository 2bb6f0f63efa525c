"""pipeline.runtime.templates: texts are filled in as they are, pages are escaped, a missing value is an error."""

import math
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from pipeline.runtime.templates import fill_template


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt.j2"
    path.write_text(
        "{% for row in rows %}\n{{ row }}\n{% endfor %}\n"
        '{{ count | number }} {{ code | short }} {{ {"b": 1, "a": 2} | json }}\n{{ rows | table }}\n',
        encoding="utf-8",
    )
    return path


def test_a_template_is_filled_in_without_escapes(template: Path) -> None:
    text = fill_template(template, rows=["<a>", "&"], count=1234.5, code="c" * 40)
    assert text.startswith("<a>\n&\n1,234 " + "c" * 12 + ' {"a": 2, "b": 1}\n')


def test_a_template_of_html_escapes_values(tmp_path: Path) -> None:
    path = tmp_path / "page.html.j2"
    path.write_text('<p>{{ text }}</p>{{ {"a": nan} | tojson }}', encoding="utf-8")
    assert fill_template(path, text="<a>", nan=math.nan) == '<p>&lt;a&gt;</p>{"a":null}'


def test_a_missing_value_is_an_error(template: Path) -> None:
    with pytest.raises(UndefinedError):
        fill_template(template, rows=[], count=None)
