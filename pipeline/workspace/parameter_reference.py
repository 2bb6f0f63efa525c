"""Write docs/parameters.md, and the JSON schema of params.yaml for editors, from the dataclasses that decode it.

* Names, types and bounds are what the decoder checks; descriptions are the docstrings of the dataclasses and of their
  fields. `stillroom parameters` prints the page, and `stillroom parameters --schema` the schema.
* tests/workspace/test_parameter_reference.py compares both with the committed files.
"""

import functools
import inspect
import json
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.config import Node, bounds, json_schema, named
from pipeline.runtime.yaml_files import read_yaml
from pipeline.tasks import TASKS
from pipeline.tasks.loading import RowSettings
from pipeline.workspace.validation import Parameters

_HEAD = """# Parameters

`stillroom parameters > docs/parameters.md` writes this page. `params.yaml` holds every parameter; a key may be left out
only where `value` names its default. Other values are the default job's.
"""


def page(path: Path) -> str:
    """Return the page of all parameters.

    Args:
        path: The params.yaml whose values the page shows.
    """
    schema, document, rows = parameter_schema(), read_yaml(path), json_schema(RowSettings)
    schema["$defs"] |= rows["$defs"]
    sections = [_section(name, schema, node, document[name]) for name, node in schema["properties"].items()]
    sections.append(_section("task.settings of tasks that read rows", schema, rows["additionalProperties"], {}))
    shared = schema["$defs"]["RowSettings"]["properties"]
    for name, task in TASKS.items():
        record = schema["$defs"][task.settings.__name__]
        own = {key: node for key, node in record["properties"].items() if key not in shared}
        first_line = (inspect.getdoc(inspect.getmodule(task)) or "").splitlines()[0]
        values = document["task"]["settings"] if document["task"]["name"] == name else {}
        node = {"properties": own, "description": first_line}
        sections.append(_section(f"task.settings of {name}", schema, node, values))
    return _HEAD + "".join(sections)


def parameter_schema() -> Node:
    """Return the JSON schema of params.yaml; `task.name` decides what `task.settings` must hold."""
    kinds = [Parameters, *(task.settings for task in TASKS.values())]
    definitions = json_schema(functools.reduce(operator.or_, kinds))["$defs"]
    choices = []
    for name, task in TASKS.items():
        then = {"properties": {"settings": {"$ref": f"#/$defs/{task.settings.__name__}"}}}
        choices.append({"if": {"properties": {"name": {"const": name}}}, "then": then})
    definitions["PromptParams"] |= {"allOf": choices}
    root = definitions.pop("Parameters")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _section(heading: str, schema: Node, node: Node, value: Any) -> str:
    """Return the heading, the description, and the table of a record or the value of anything else."""
    record = _record(schema, node)
    text = f"\n## {heading}\n\n{node.get('description') or (record or {})['description']}\n\n"
    if record is None:
        return f"{text}{_kind(node).capitalize()}; value `{_shown(value)}`.\n"
    if "additionalProperties" in node:
        text, value = f"{text}One entry per name.\n\n", next(iter(value.values()), {})
    rows = [("key", "type", "value", "meaning"), ("---",) * 4, *_rows(schema, record, "", value)]
    return text + "".join(f"|{'|'.join(row)}|\n" for row in rows)


def _record(schema: Node, node: Node) -> Node | None:
    """Return the mapping with named keys that a node is, that is an option of its union, or its values, if any."""
    options = [node, *node.get("anyOf", ()), node.get("additionalProperties")]
    names = [option["$ref"].split("/")[-1] for option in options if isinstance(option, Mapping) and "$ref" in option]
    return schema["$defs"][names[0]] if names else node if "properties" in node else None


def _rows(schema: Node, record: Node, prefix: str, values: Any) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each key, followed by the keys of a mapping within it under dotted names."""
    sections = [_record(schema, node) for node in schema["properties"].values() if "$ref" in node]
    values = values if isinstance(values, Mapping) else {}
    for name, node in record["properties"].items():
        inner, value = _record(schema, node), values.get(name)
        # A mapping whose keys explain it has no row of its own. The keys of another section are explained there.
        if inner is None or "description" in node:
            shown = f"`{_shown(value)}`" if name in values and (value == {} or not isinstance(value, Mapping)) else ""
            shown = shown or (f"default `{_shown(node['default'])}`" if "default" in node else "")
            cells = f"`{prefix}{name}`", _kind(node), shown, node.get("description", "")
            yield tuple(" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        if inner is not None and inner not in sections:
            yield from _rows(schema, inner, f"{prefix}{name}.", value)


def _kind(node: Node) -> str:
    """Return the type of a node in words, each option of a union with its bounds, such as `float 0 to 1 or null`."""
    options = [f"{named(option)} {bounds(option)}".strip() for option in node.get("anyOf", [node])]
    return re.sub(r">= (\S+) and <=", r"\1 to", " or ".join(options))


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
