"""params.yaml into frozen dataclasses, strictly: the only module that knows YAML and its mistakes.

`params.yaml` is complete: no knob has a default in Python, so every value that matters is tracked by DVC. A key that
is unknown or missing, a value of the wrong type or out of range is a ParameterError that names the key. ruamel.yaml
reads YAML 1.2, where 1e-4 is a number (PyYAML makes it a string).
"""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import _shown, read_yaml

T = TypeVar("T")

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
"""Old keys of params.yaml and the new name of the last part, for the message that answers them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Inclusive bounds of a number, or of the numbers in a list; `above` excludes the lower bound."""

    low: float
    high: float = float("inf")
    above: bool = False

    def admits(self, value: float) -> bool:
        """True when value lies within the bounds; never for NaN."""
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        sign = ">" if self.above else ">="
        return f"{sign} {self.low:g}" + ("" if self.high == float("inf") else f" and <= {self.high:g}")


Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Fraction = Annotated[float, Range(0, 1)]
AboveZero = Annotated[float, Range(0, above=True)]


def section(path: Path, cls: type[T], *keys: str) -> T:
    """One section of params.yaml, such as `section(path, TrainParams, "train")`, as a dataclass."""
    return parse(cls, lookup(path, *keys), where=".".join(keys))


def lookup(path: Path, *keys: str) -> Any:
    """The raw value under nested keys; a ParameterError when one is missing."""
    value: Any = read_yaml(path)
    for depth, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            where = ".".join(keys[: depth + 1])
            raise ParameterError(where, expected="a value", got="nothing", remedy=f"add it to {path}")
        value = value[key]
    return value


def parse(cls: type[T], value: Any, *, where: str) -> T:
    """Build a dataclass, or convert a plain value, checking names, types and ranges all the way down."""
    converted = _convert(cls, value, where)
    return typing.cast(T, converted)


def _convert(kind: Any, value: Any, where: str) -> Any:
    bounds = None
    if get_origin(kind) is Annotated:
        kind, bounds = get_args(kind)[:2]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(inner, value, where)
    if origin is typing.Literal:
        _expect(value in inner and type(value) in {type(one) for one in inner}, where, _choices(inner), value)
        return value
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(_convert(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "a mapping", value)
        return {key: _convert(inner[1], one, f"{where}.{key}") for key, one in value.items()}
    return _scalar(kind, value, where, bounds)


def _scalar(kind: type, value: Any, where: str, bounds: Range | None) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    _expect(type(value) is kind or kind is object, where, kind.__name__, value)
    if bounds is not None:
        _expect(bounds.admits(value), where, str(bounds), value)
    return value


def _union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [one for one in options if one is not type(None)]
    mappings = [one for one in rest if dataclasses.is_dataclass(one)]
    if isinstance(value, dict) and len(mappings) == 1:
        return _convert(mappings[0], value, where)
    rest = [one for one in rest if one not in mappings] or rest
    lists = [one for one in rest if get_origin(one) is tuple]
    if isinstance(value, list) and len(lists) == 1:
        return _convert(lists[0], value, where)
    for option in rest:
        try:
            return _convert(option, value, where)
        except ParameterError:
            if len(rest) == 1:
                raise
    names = " or ".join(map(named, options))
    raise ParameterError(where, expected=names, got=_shown(value), remedy="mend params.yaml")


def _dataclass(cls: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "a mapping", value)
    hints = get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    for key in value:
        if key not in names:
            known, renamed = ", ".join(names), RENAMED.get(f"{where}.{key}")
            remedy = f"rename it to {renamed}" if renamed else "remove or rename it"
            raise ParameterError(f"{where}.{key}", expected=f"one of: {known}", got=repr(key), remedy=remedy)
    for name in names:
        if name not in value:
            kind = named(hints[name])
            raise ParameterError(f"{where}.{name}", expected=kind, got="nothing", remedy="add it to params.yaml")
    return cls(**{name: _convert(hints[name], value[name], f"{where}.{name}") for name in names})


def _expect(condition: bool, where: str, expected: str, value: Any) -> None:
    if not condition:
        raise ParameterError(where, expected=expected, got=_shown(value), remedy="mend params.yaml")


def named(kind: Any) -> str:
    """A type in the words of params.yaml."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return named(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(named, inner))
    if origin is typing.Literal:
        return _choices(inner)
    if origin is tuple:
        return "a list"
    if origin is dict or dataclasses.is_dataclass(kind):
        return "a mapping"
    return "null" if kind is type(None) else str(kind.__name__)


def _choices(options: tuple[Any, ...]) -> str:
    return "one of: " + ", ".join(map(str, options))
