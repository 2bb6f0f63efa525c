"""Write docs/parameters.md, and the JSON schema of params.yaml for editors, from the dataclasses that decode it.

* Names, types and bounds are what the decoder checks; descriptions are the docstrings of the dataclasses and of their
  fields. `stillroom parameters` prints the page, and `stillroom parameters --schema` the schema.
* tests/workspace/test_parameter_reference.py compares both with the committed files.
"""

import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.config import Node, bounds, json_schema, named
from pipeline.runtime.yaml_files import read_yaml
from pipeline.tasks import TASKS
from pipeline.tasks.loading import RowSettings
from pipeline.workspace.validation import Parameters

_HEAD = """# Parameters

`stillroom parameters > docs/parameters.md` writes this page. `params.yaml` holds every parameter; the code has no
defaults. `value` is the default job's.
"""
_TABLE = "| name | type | value | description |\n|---|---|---|---|\n"
_SHARED = RowSettings.__dataclass_fields__
_ABSENT = object()


def page(path: Path) -> str:
    """Return the page of all parameters.

    Args:
        path: The params.yaml whose values the page shows.
    """
    schema, document = parameter_schema(), read_yaml(path)
    parts = [_HEAD]
    for name, node in schema["properties"].items():
        parts += _section(name, schema, node, document[name])
    settings: dict[str, tuple[Any, str, Any]] = {"tasks that read rows": (RowSettings, _doc(RowSettings), {})}
    for name, task in TASKS.items():
        first_line = _doc(inspect.getmodule(task)).splitlines()[0]
        values = document["task"]["settings"] if document["task"]["name"] == name else {}
        settings[name] = (task.settings, first_line, values)
    for name, (kind, description, values) in settings.items():
        inner = json_schema(kind)
        node = inner["additionalProperties"] | {"description": description}
        parts += _section(f"task.settings of {name}", inner, node, values, () if kind is RowSettings else _SHARED)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def parameter_schema() -> Node:
    """Return the JSON schema of params.yaml; `task.name` decides what `task.settings` must hold."""
    schema = json_schema(Parameters)
    definitions = schema["$defs"]
    choices = []
    for name, task in TASKS.items():
        settings = json_schema(task.settings)
        definitions |= settings["$defs"]
        then = {"properties": {"settings": settings["additionalProperties"]}}
        choices.append({"if": {"properties": {"name": {"const": name}}}, "then": then})
    definitions["PromptParams"] |= {"allOf": choices}
    root = definitions.pop("Parameters")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _section(heading: str, schema: Node, node: Node, value: Any, skipped: Collection[str] = ()) -> Iterator[str]:
    """Yield the heading, the description, and the table of a record or the value of anything else."""
    record = _record(schema, node)
    yield f"## {heading}"
    yield node.get("description") or (record or {})["description"]
    if record is None:
        yield f"{_kind(node).capitalize()}; value `{_shown(value)}`."
        return
    if "additionalProperties" in node:
        yield "One entry per name."
        value = next(iter(value.values()), {})
    rows = [row for row in _rows(schema, record, "", value) if row[0].strip("`") not in skipped]
    yield _TABLE + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _record(schema: Node, node: Node) -> Node | None:
    """Return the mapping with named keys that a node is, that is an option of its union, or its values, if any."""
    options = [node, *node.get("anyOf", ()), node.get("additionalProperties")]
    references = [option["$ref"] for option in options if isinstance(option, Mapping) and "$ref" in option]
    return schema["$defs"][references[0].split("/")[-1]] if references else None


def _rows(schema: Node, record: Node, prefix: str, values: Any) -> Iterator[list[str]]:
    """Yield the cells of each key, followed by the keys of a mapping within it under dotted names."""
    sections = [_record(schema, node) for node in schema.get("properties", {}).values() if "$ref" in node]
    for name, node in record["properties"].items():
        inner = _record(schema, node)
        value = values[name] if isinstance(values, Mapping) and name in values else _ABSENT
        # A mapping whose keys explain it has no row of its own. The keys of another section are explained there.
        if inner is None or "description" in node:
            shown = "" if value is _ABSENT or (isinstance(value, Mapping) and value) else f"`{_shown(value)}`"
            cells = f"`{prefix}{name}`", _kind(node), shown, node.get("description", "")
            yield [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
        if inner is not None and inner not in sections:
            yield from _rows(schema, inner, f"{prefix}{name}.", value)


def _kind(node: Node) -> str:
    """Return the type of a node in words, each option of a union with its bounds, such as `float 0 to 1 or null`."""
    options = [f"{named(option)} {bounds(option)}".strip() for option in node.get("anyOf", [node])]
    return re.sub(r">= (\S+) and <=", r"\1 to", " or ".join(options))


def _doc(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
