"""Read, edit and write YAML files."""

import copy
import io
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.runtime.errors import ParameterError

_SCHEMA_LINE = "# yaml-language-server: "
# The blank lines and comments above a section, and its name.
_ABOVE = re.compile(r"((?:^(?:#.*)?\n)*)^(\w+):", re.MULTILINE)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping at the top of a YAML file.

    Raises:
        ParameterError: The file is missing, is no YAML, or holds no mapping.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ParameterError(path, expected="a file", got="nothing", remedy="run in the project's root") from None
    except OSError as error:
        raise ParameterError(path, expected="a file that can be read", got=error.strerror, remedy="chmod it") from None
    return copy.deepcopy(parse_yaml(path, content))


@lru_cache(maxsize=8)
def parse_yaml(path: Path, content: bytes) -> dict[str, Any]:
    """Return the mapping in the content of a YAML file, which the caller must not change.

    ruamel.yaml reads YAML 1.2, in which 1e-4 is a number; PyYAML reads it as text. Parsing params.yaml takes 25 ms, so
    the result is cached for the next section.

    Raises:
        ParameterError: The content is no YAML, or holds no mapping.
    """
    stream = io.BytesIO(content)
    stream.name = str(path)  # for the messages of the parser
    try:
        value = YAML(typ="safe", pure=True).load(stream)
    except YAMLError as error:
        problem = " ".join(str(error).split())
        raise ParameterError(path, expected="YAML", got=problem, remedy="fix the file") from error
    if not isinstance(value, dict):
        raise ParameterError(path, expected="a mapping", got=shown(value), remedy="fix the file")
    return value


def write_yaml(path: Path, value: Mapping[str, Any], *, comment: str) -> None:
    """Write a mapping in block style, with its keys in their order and a comment on top."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f"# {comment}\n")
        YAML().dump(dict(value), file)


def edit_yaml(path: Path, changes: Mapping[tuple[str, ...], Any], *, top: str | None = None) -> str:
    """Return the text of a YAML file with other values under some keys.

    Comments, the order and every other line stay.

    Args:
        path: The file, which is not written.
        changes: The new value by its path of keys.
        top: The comment that replaces everything above the first key.
    """
    document = _round_trip().load(path)
    for (*parents, last), value in changes.items():
        parent = document
        for key in parents:
            parent = parent[key]
        parent[last] = value
    return _dumped(document, path, top)


def overlay_yaml(path: Path, *overlays: Path) -> str:
    """Return the text of a YAML file with the values and the leading comments of other files laid over it.

    A mapping is laid over another key by key if the other has all of its keys. It replaces anything else.
    """
    document, comments = _round_trip().load(path), ""
    for overlay in overlays:
        text = overlay.read_text(encoding="utf-8").replace(
            "\n\n", "\n"
        )  # a blank line would move along with the value before it
        _lay_over(document, _round_trip().load(text))
        comments = "".join(re.findall(r"\A(?:#.*\n)*", text)) + "#\n" + comments
    text = _dumped(document, path, None)
    # An editor's line about the schema stays the first one.
    start = text.index("\n") + 1 if text.startswith(_SCHEMA_LINE) else 0
    return text[:start] + comments + text[start:]


def _lay_over(below: Any, above: Any) -> None:
    """Change `below` in place; a changed value loses its comment and takes the other's."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below[key], dict) and value.keys() <= below[key].keys():
            _lay_over(below[key], value)
        else:
            below[key] = value
            below.ca.items.pop(key, None)
            below.ca.items.update({key: above.ca.items[key]} if key in above.ca.items else {})


class _NullAsWord(RoundTripRepresenter):
    """Writes null as a word, as params.yaml has it; ruamel.yaml leaves a blank."""


_NullAsWord.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def _round_trip() -> YAML:
    """Return a reader and writer that keeps comments, quotes and the order of keys."""
    yaml = YAML()
    yaml.preserve_quotes, yaml.width, yaml.Representer = True, 4096, _NullAsWord
    return yaml


def _dumped(document: Any, path: Path, top: str | None) -> str:
    """Return the text of a document that was read from `path`, with the comments above sections as they were.

    ruamel.yaml attaches these comments to the value before them, and loses them with that value.
    """
    text = io.StringIO()
    _round_trip().dump(document, text)
    comments = {name: comment for comment, name in _ABOVE.findall(path.read_text(encoding="utf-8"))}
    if top is not None:
        comments[next(iter(document))] = top
    return _ABOVE.sub(lambda match: f"{comments.get(match[2], match[1])}{match[2]}:", text.getvalue())


def shown(value: Any) -> str:
    """Return a value and its type, for messages."""
    return "null" if value is None else f"{value!r} ({type(value).__name__})"
