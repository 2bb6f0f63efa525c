"""Fill in the Jinja2 templates of texts for people: the page of the report, model cards, and the output of commands."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from pipeline.runtime.text import markdown_table, number_text, short, size_text


def fill_template(template: Path, **values: Any) -> str:
    """Return the text of a template with these values.

    A template `*.html.j2` escapes every value; others insert the values as they are. A block tag in a line of its own
    leaves no blank line. The filters `number`, `short`, `size` and `table` are functions of this package; the filter
    `json` writes a value for people, with sorted keys, and `tojson` writes it for the script of a page.
    """
    return _environment(template.parent).get_template(template.name).render(values)


def to_json(value: Any) -> str:
    """Return compact JSON; numbers that JSON lacks become null."""
    return orjson.dumps(value).decode()


@cache
def _environment(directory: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(directory),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = lambda value, **_: to_json(value)
    environment.filters |= {
        "json": lambda value, indent=None: json.dumps(value, indent=indent, sort_keys=True),
        "number": number_text,
        "short": short,
        "size": size_text,
        "table": markdown_table,
    }
    return environment
