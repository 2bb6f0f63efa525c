"""Decode params.yaml, and other documents of plain values, into frozen dataclasses.

* pydantic decodes strictly: a number in quotes is text, `true` is no number, and no key may be missing or unknown.
* params.yaml is complete. No parameter has a default in Python, so DVC tracks every value that matters.
* Every mistake is a ParameterError that names the key, what was expected, what was found, and how to fix it.
"""

import functools
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from annotated_types import Ge, Gt, Interval

from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import read_yaml, shown

if TYPE_CHECKING:  # a process that decodes nothing does not import pydantic
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
Node = dict[str, Any]

Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
NonNegative = Annotated[float, Ge(0)]
AboveZero = Annotated[float, Gt(0)]

# Old keys of params.yaml, each with the new name of its last part, for the message about an unknown key.
RENAMED = {
    "rollout.sampling.support_threshold": "record_threshold",
    "rollout.sampling.support_max": "record_max",
    "rollout.sampling.tail_draws": "record_tail_samples",
    "scoring.publish_every": "flush_every",
    "scoring.support": "truncation",
    "scoring.truncation.draws_per_tail": "samples_per_tail",
    "objective.support": "tail_estimator",
    "objective.tail_draws_scale": "tail_samples_scale",
    "objective.g_staleness": "tail_mean_staleness",
    "objective.epsilon": "clip_epsilon",
    "batches.window": "shuffle_window",
    "evaluation.shown": "recorded_prompts",
}

_WORDS = {
    "integer": "int",
    "number": "float",
    "string": "str",
    "boolean": "bool",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
_UNKNOWN = "unexpected_keyword_argument"
_SIGNS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def section(path: Path, cls: type[T], *keys: str) -> T:
    """Return one section of params.yaml, such as `section(path, BatchParams, "batches")`, as a dataclass.

    Raises:
        ParameterError: The section is missing, or a value in it is wrong.
    """
    return parse(cls, lookup(path, *keys), where=".".join(keys))


def lookup(path: Path, *keys: str) -> Any:
    """Return the raw value under nested keys of a YAML file.

    Raises:
        ParameterError: A key is missing.
    """
    value: Any = read_yaml(path)
    for depth, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            where = ".".join(keys[: depth + 1])
            raise ParameterError(where, expected="a value", got="nothing", remedy=f"add it to {path}")
        value = value[key]
    return value


def parse(cls: type[T], value: Any, *, where: str) -> T:
    """Decode a plain value as a dataclass or as any other type, with all that is in it.

    Args:
        cls: What to decode: a dataclass, or a type such as `tuple[int, ...]`.
        value: Mappings, lists, text, numbers, booleans and None, as YAML and JSON have them.
        where: The dotted key of the value, for messages; "" for a whole document.

    Raises:
        ParameterError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    from pydantic import ValidationError
    from pydantic_core import from_json, to_json

    # pydantic's strict mode takes a list for a tuple only from JSON text. The value is wrapped in a mapping, because
    # TypeAdapter accepts a configuration for a mapping of dataclasses and refuses one for a dataclass.
    text = to_json({where: value}, inf_nan_mode="constants", fallback=str)
    try:
        return cast(T, _decoder(cast(Any, cls)).validate_json(text)[where])
    except ValidationError as error:
        raise _refusal(json_schema(cls), from_json(text), error) from None


def json_schema(kind: Any) -> Node:
    """Return the JSON schema of a mapping whose values have one type; strings under fields are descriptions."""
    return _decoder(kind).json_schema()


@functools.cache
def _decoder(kind: Any) -> "TypeAdapter[dict[str, Any]]":
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    return TypeAdapter(dict[str, kind], config=config)


def _refusal(schema: Node, document: Node, error: "ValidationError") -> ParameterError:
    """Return the message about one mistake: an unknown key, or else the value that lies deepest."""
    mistakes = error.errors(include_url=False)
    mistake = max(mistakes, key=lambda e: (e["type"] == _UNKNOWN, len(e["loc"]), not e["type"].endswith("_type")))
    if isinstance(raised := mistake.get("ctx", {}).get("error"), ParameterError):  # by a dataclass that checks itself
        return raised
    where, node, parent, value = _find(schema, mistake["loc"], document)
    if mistake["type"] == _UNKNOWN:
        names, key = ", ".join(parent["properties"]), repr(mistake["loc"][-1])
        if where in RENAMED:
            return ParameterError(where, expected=f"one of: {names}", got=key, remedy=f"rename it to {RENAMED[where]}")
        return ParameterError(where, expected=f"one of: {names}", got=key, remedy="remove or rename it")
    if mistake["type"] == "missing":
        return ParameterError(where, expected=named(node), got="nothing", remedy="add it to params.yaml")
    if mistake["type"] == "finite_number" and not (isnan(value) and bounds(node)):  # NaN is within no bounds
        return ParameterError(where, expected="a finite number", got=shown(value), remedy="fix params.yaml")
    expected = named(node) if mistake["type"].endswith(("_type", "_error")) else bounds(node)
    return ParameterError(where, expected=expected, got=shown(value), remedy="fix params.yaml")


def _find(schema: Node, loc: Sequence[str | int], value: Any) -> tuple[str, Node, Node, Any]:
    """Return the dotted key, the JSON schema, the JSON schema of what it is part of, and the value at a location."""
    where, node, parent = "", schema, schema
    for part in loc:
        parent = _resolve(schema, node, value)
        if isinstance(value, list) and isinstance(part, int):
            where, node, value = f"{where}[{part}]", parent["items"], value[part]
        elif isinstance(value, dict) and (part in value or part in parent.get("properties", ())):
            node = parent.get("properties", {}).get(part) or parent["additionalProperties"] or {}
            where, value = f"{where}.{part}", value.get(part)
        # Any other part is the name that pydantic gives an option of a union.
    return where.strip("."), node, parent, value


def _resolve(schema: Node, node: Node, value: Any) -> Node:
    """Return the schema that a mapping or a list is decoded by: behind a reference, or one option of a union."""
    kind = "object" if isinstance(value, dict) else "array"
    options = [schema["$defs"][o["$ref"].split("/")[-1]] if "$ref" in o else o for o in node.get("anyOf", [node])]
    return next((option for option in options if option.get("type") == kind), node)


def named(node: Node) -> str:
    """Return the type that a JSON schema describes, in the words of messages and of docs/parameters.md."""
    if "anyOf" in node:
        return " or ".join(map(named, node["anyOf"]))
    if "const" in node:
        return str(node["const"])
    return f"one of: {', '.join(node['enum'])}" if "enum" in node else _WORDS[node.get("type", "object")]


def bounds(node: Node) -> str:
    """Return the bounds of a number, of a list's items, or of the first option of a union that has some."""
    options = [node, *node.get("anyOf", ()), node.get("items", {})]
    texts = (" and ".join(f"{_SIGNS[key]} {option[key]:g}" for key in _SIGNS if key in option) for option in options)
    return next(filter(None, texts), "")
