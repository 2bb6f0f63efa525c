"""Read, edit and write YAML files."""

import copy
import io
import re
import types
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from pipeline.runtime.errors import ParameterError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ParameterError(path, expected="a file", got="nothing", remedy="run in the project's root") from None
    return copy.deepcopy(_parsed(path, content))


@lru_cache(maxsize=8)
def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    """Parsed once, however many sections are asked for: 25 ms for params.yaml."""
    stream = io.BytesIO(content)
    stream.name = str(path)  # for the parser's messages
    try:
        value = YAML(typ="safe", pure=True).load(stream)
    except YAMLError as error:
        first = " ".join(str(error).split())
        raise ParameterError(path, expected="YAML", got=first, remedy="fix the file") from error
    if not isinstance(value, dict):
        raise ParameterError(path, expected="a mapping", got=shown(value), remedy="fix the file")
    return value


def write_yaml(path: Path, value: Mapping[str, Any], *, comment: str) -> None:
    """Block style, keys in the given order, with a comment on top."""
    yaml = YAML()
    yaml.default_flow_style = False
    with path.open("w") as file:
        file.write(f"# {comment}\n")
        yaml.dump(dict(value), file)


class _SaysNull(RoundTripRepresenter):
    """Writes null as a word, as params.yaml has it, where ruamel leaves a blank."""


_SaysNull.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))

_ABOVE = re.compile(r"((?:^(?:#.*)?\n)*)^(\w+):", re.MULTILINE)  # blank lines and comments over a section, its name


def edit_yaml(
    path: Path, changes: Mapping[tuple[str, ...], Any], comments: Mapping[str, str] = types.MappingProxyType({})
) -> str:
    """The text of a YAML file with other values under some keys; comments, order and every other line stay.

    `comments` replaces those above sections. ruamel keeps a comment with what stands before it, and loses it with that.
    """
    yaml = YAML()
    yaml.preserve_quotes, yaml.width, yaml.Representer = True, 4096, _SaysNull
    document = yaml.load(path)
    for (*above, last), value in changes.items():
        place = document
        for key in above:
            place = place[key]
        place[last] = value
    text = io.StringIO()
    yaml.dump(document, text)
    blocks = {name: block for block, name in _ABOVE.findall(path.read_text())}
    for name, words in comments.items():
        blocks[name] = ("\n" if blocks.get(name, "").startswith("\n") else "") + f"# {words}\n"
    return _ABOVE.sub(lambda found: f"{blocks.get(found[2], found[1])}{found[2]}:", text.getvalue())


def shown(value: Any) -> str:
    return "null" if value is None else f"{value!r} ({type(value).__name__})"
