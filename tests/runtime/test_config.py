"""pipeline.runtime.config: which values are accepted, and the exact message about every other value."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval

from pipeline.runtime.config import RENAMED, AboveZero, Count, Fraction, Positive, lookup, parse, section
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import read_yaml, write_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    steps: Positive
    rate: AboveZero
    kind: Literal["a", "b"]
    name: str
    flag: bool
    inner: Inner
    maybe: Inner | None
    limit: Positive | None
    either: int | str
    sizes: tuple[Positive, ...]
    free: dict[str, object]
    share: Fraction | Inner
    layers: tuple[int, ...] | dict[str, tuple[int, ...]] | None


GOOD: dict[str, Any] = {
    "steps": 3,
    "rate": 1e-4,
    "kind": "a",
    "name": "x",
    "flag": True,
    "inner": {"size": 1},
    "maybe": None,
    "limit": None,
    "either": "six",
    "sizes": [1, 2],
    "free": {"deep": {"er": [1, None]}},
    "share": 0.5,
    "layers": None,
}


def refusal(**changes: Any) -> str:
    with pytest.raises(ParameterError) as caught:
        parse(Outer, GOOD | changes, where="train")
    return str(caught.value)


def test_a_complete_mapping_becomes_the_dataclass() -> None:
    parsed = parse(Outer, GOOD, where="train")
    assert parsed == Outer(
        steps=3,
        rate=1e-4,
        kind="a",
        name="x",
        flag=True,
        inner=Inner(size=1),
        maybe=None,
        limit=None,
        either="six",
        sizes=(1, 2),
        free={"deep": {"er": [1, None]}},
        share=0.5,
        layers=None,
    )
    filled = parse(Outer, GOOD | {"maybe": {"size": 2}, "limit": 4, "either": 6, "sizes": []}, where="train")
    assert (filled.maybe, filled.limit, filled.either, filled.sizes) == (Inner(size=2), 4, 6, ())
    changes = {"share": {"size": 1}, "layers": {"encoder": [0, 2]}}
    parsed = parse(Outer, GOOD | changes, where="train")
    assert (parsed.share, parsed.layers) == (Inner(size=1), {"encoder": (0, 2)})
    assert parse(Outer, GOOD | {"layers": [0, 2]}, where="train").layers == (0, 2)


def test_an_unknown_key_is_named_with_those_that_exist() -> None:
    assert refusal(stepz=1) == (
        "train.stepz: expected one of: steps, rate, kind, name, flag, inner, maybe, limit, either, sizes, free, "
        "share, layers, "
        "got 'stepz'; remove or rename it"
    )


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("name", "str"),
        ("steps", "int"),
        ("kind", "one of: a, b"),
        ("inner", "a mapping"),
        ("maybe", "a mapping or null"),
        ("limit", "int or null"),
        ("sizes", "a list"),
        ("free", "a mapping"),
    ],
)
def test_a_missing_key_is_named_with_its_type(key: str, kind: str) -> None:
    less = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(ParameterError) as caught:
        parse(Outer, less, where="train")
    assert str(caught.value) == f"train.{key}: expected {kind}, got nothing; add it to params.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "ten"}, "train.steps: expected int, got 'ten' (str)"),
        ({"steps": 1.0}, "train.steps: expected int, got 1.0 (float)"),
        ({"steps": True}, "train.steps: expected int, got True (bool)"),
        ({"steps": None}, "train.steps: expected int, got null"),
        ({"steps": 0}, "train.steps: expected >= 1, got 0 (int)"),
        ({"rate": 0}, "train.rate: expected > 0, got 0 (int)"),
        ({"rate": float("nan")}, "train.rate: expected > 0, got nan (float)"),
        ({"rate": "1e-4"}, "train.rate: expected float, got '1e-4' (str)"),
        ({"kind": "c"}, "train.kind: expected one of: a, b, got 'c' (str)"),
        ({"kind": ["a"]}, "train.kind: expected one of: a, b, got ['a'] (list)"),
        ({"name": 7}, "train.name: expected str, got 7 (int)"),
        ({"flag": 1}, "train.flag: expected bool, got 1 (int)"),
        ({"inner": 3}, "train.inner: expected a mapping, got 3 (int)"),
        ({"inner": {"size": 0}}, "train.inner.size: expected >= 1, got 0 (int)"),
        ({"maybe": {"size": "x"}}, "train.maybe.size: expected int, got 'x' (str)"),
        ({"limit": 0}, "train.limit: expected >= 1, got 0 (int)"),
        ({"either": 1.5}, "train.either: expected int or str, got 1.5 (float)"),
        ({"sizes": 3}, "train.sizes: expected a list, got 3 (int)"),
        ({"sizes": [1, 0]}, "train.sizes[1]: expected >= 1, got 0 (int)"),
        ({"free": [1]}, "train.free: expected a mapping, got [1] (list)"),
        ({"steps": "8"}, "train.steps: expected int, got '8' (str)"),
        ({"rate": True}, "train.rate: expected float, got True (bool)"),
        ({"limit": "x"}, "train.limit: expected int or null, got 'x' (str)"),
        ({"maybe": 3}, "train.maybe: expected a mapping or null, got 3 (int)"),
        ({"share": 1.5}, "train.share: expected >= 0 and <= 1, got 1.5 (float)"),
        ({"share": float("nan")}, "train.share: expected >= 0 and <= 1, got nan (float)"),
        ({"share": "x"}, "train.share: expected float or a mapping, got 'x' (str)"),
        ({"share": {"size": 0}}, "train.share.size: expected >= 1, got 0 (int)"),
        ({"layers": "x"}, "train.layers: expected a list or a mapping or null, got 'x' (str)"),
        ({"layers": [0, "1"]}, "train.layers[1]: expected int, got '1' (str)"),
        ({"layers": {"encoder": [0, "1"]}}, "train.layers.encoder[1]: expected int, got '1' (str)"),
        ({"layers": {"encoder": 0}}, "train.layers.encoder: expected a list, got 0 (int)"),
    ],
)
def test_a_wrong_value_is_reported_with_its_key(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes) == f"{message}; fix params.yaml"


def test_a_missing_key_of_a_nested_mapping_has_its_full_name() -> None:
    assert refusal(inner={}) == "train.inner.size: expected int, got nothing; add it to params.yaml"


@pytest.mark.parametrize(("value", "message"), [({"size": 1, "b": 1}, "share.b: expected one of: size, got 'b'; ")])
def test_an_unknown_key_in_an_option_of_a_union(value: dict[str, int], message: str) -> None:
    assert refusal(share=value) == f"train.{message}remove or rename it"


def test_an_old_key_is_answered_with_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old key comes with a missing new one; the message is about the old one."""
    monkeypatch.setitem(RENAMED, "train.stepz", "steps")
    old = {"stepz" if name == "steps" else name: value for name, value in GOOD.items()}
    with pytest.raises(ParameterError, match=r"^train\.stepz: expected one of: .*, got 'stepz'; rename it to steps$"):
        parse(Outer, old, where="train")


def test_a_date_is_the_text_that_it_is_written_as() -> None:
    """YAML 1.2 has no dates, but ruamel.yaml reads them."""
    assert parse(str, date(2024, 1, 2), where="revision") == "2024-01-02"


def test_a_whole_document_has_no_name() -> None:
    with pytest.raises(ParameterError, match=r"^size: expected int, got nothing; add it to params.yaml$"):
        parse(Inner, {}, where="")


def test_whole_numbers_are_accepted_as_floats() -> None:
    assert parse(Outer, GOOD | {"rate": 2}, where="train").rate == 2.0
    assert type(parse(Outer, GOOD | {"rate": 2}, where="train").rate) is float


@pytest.mark.parametrize(
    ("kind", "accepted", "refused", "words"),
    [
        (Count, 0, -1, ">= 0"),
        (Fraction, 1.0, 1.1, ">= 0 and <= 1"),
        (AboveZero, 1e-9, 0.0, "> 0"),
        (Annotated[int, Interval(ge=2, le=4)], 4, 5, ">= 2 and <= 4"),
    ],
)
def test_bounds(kind: Any, accepted: float, refused: float, words: str) -> None:
    assert parse(kind, accepted, where="x") == accepted
    with pytest.raises(ParameterError, match=f"^x: expected {words}, got "):
        parse(kind, refused, where="x")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_every_spelling_of_a_small_number_is_a_number(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"rate: {text}\n", encoding="utf-8")
    assert parse(float, lookup(file, "rate"), where="rate") == 1e-4


def test_sections_are_found_by_nested_keys(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    write_yaml(file, {"train": {"inner": {"size": 2}}}, comment="about")
    assert file.read_text(encoding="utf-8") == "# about\ntrain:\n  inner:\n    size: 2\n"
    assert section(file, Inner, "train", "inner") == Inner(size=2)
    with pytest.raises(ParameterError) as caught:
        section(file, Inner, "train", "outer", "size")
    assert str(caught.value) == f"train.outer: expected a value, got nothing; add it to {file}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "expected YAML, got "),
        ("a: 1\na: 2\n", "expected YAML, got "),
        ("- 1\n", "expected a mapping, got [1] (list); fix the file"),
        ("", "expected a mapping, got null; fix the file"),
    ],
)
def test_a_damaged_file_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    with pytest.raises(ParameterError) as caught:
        read_yaml(file)
    assert str(caught.value) == f"{file}: expected a file, got nothing; run in the project's root"
