"""docs/parameters.md: every knob, from the dataclasses that params.yaml is parsed into.

Guarantee: names, types and bounds are those that the parser checks, values are params.yaml's, and the words are the
docstrings under the fields, so that the page cannot say something else. `stillroom parameters` prints it.
"""

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pipeline.runtime.config import Range, named
from pipeline.runtime.yaml_files import read_yaml
from pipeline.tasks import TASKS
from pipeline.workspace.validation import SECTIONS

_HEAD = """# Parameters

Written by `stillroom parameters > docs/parameters.md`; do not edit. Everything stands in `params.yaml`, nothing has a
default in the code. `value` is the default job's.
"""
_PLAIN = {  # sections that are no dataclass
    "seed": "Of every random draw, together with what it is for.",
    "students": "Which of the students described below are made.",
    "reward": "What a finished completion is worth: function to weight, summed (pipeline/rewards.py). {} for none.",
}


def page(path: Path) -> str:
    """The whole page; `path` is params.yaml."""
    document = read_yaml(path)
    parts = [_HEAD]
    for name, kind in SECTIONS.items():
        parts += _section(name, kind, document[name])
    for name, task in TASKS.items():
        about = (inspect.getdoc(inspect.getmodule(task)) or "").splitlines()[0]
        settings = document["task"]["settings"] if document["task"]["name"] == name else {}
        parts += [f"## task.settings of {name}", about, *_table(_rows(task.settings, "", settings))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _section(name: str, kind: Any, value: Any) -> Iterator[str]:
    """Heading, the dataclass's docstring, and a row a field; fields of dataclasses within follow with dotted names."""
    inner = _record(kind)
    yield f"## {name}"
    if inner is None:
        yield f"{_PLAIN[name]} {_kind(kind)}; value `{_shown(value)}`."
        return
    yield textwrap.dedent(inner.__doc__ or "").strip()
    if get_origin(kind) is dict:
        yield "One entry for each name."
        value = next(iter(value.values()), {})
    yield from _table(_rows(inner, "", value))


def _record(kind: Any) -> type | None:
    """The dataclass in a type: itself, the values of a mapping, or the one in a union."""
    if dataclasses.is_dataclass(kind):
        return kind if isinstance(kind, type) else None
    return next((found for one in get_args(kind) if (found := _record(one))), None)


def _table(rows: Iterator[list[str]]) -> list[str]:
    lines = ["| name | type | value | |", "|---|---|---|---|"]
    return ["\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])]


def _rows(cls: type, prefix: str, value: Any) -> Iterator[list[str]]:
    hints, words = get_type_hints(cls, include_extras=True), field_docstrings(cls)
    for field in dataclasses.fields(cls):
        one = value.get(field.name) if isinstance(value, dict) else None
        inner = _record(hints[field.name])
        if inner is None or field.name in words:  # a record whose fields say all has no row of its own
            known = isinstance(value, dict) and field.name in value
            cells = [f"`{prefix}{field.name}`", _kind(hints[field.name]), f"`{_shown(one)}`" if known else ""]
            yield [_cell(text) for text in (*cells, words.get(field.name, ""))]
        if inner is not None:
            yield from _rows(inner, f"{prefix}{field.name}.", one)


def field_docstrings(cls: type) -> dict[str, str]:
    """Field to the string that stands under it, those of the classes it extends among them."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _own_docstrings(base) if dataclasses.is_dataclass(base) else {}
    return found


def _own_docstrings(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(after.value))
    return found


def _kind(hint: Any) -> str:
    """A type in the words of an error message, with its bounds."""
    parts = [hint, *get_args(hint)]
    bounds = [get_args(one)[1] for one in parts if get_origin(one) is Annotated]
    return named(hint) + "".join(f" {one}" for one in bounds if isinstance(one, Range))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
