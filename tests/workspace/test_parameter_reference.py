"""docs/parameters.md says what the parser checks."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.workspace.parameter_reference import field_docstrings, page

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Example:
    """Not a field."""

    one: int
    """Of the first."""
    two: int
    three: int
    """Of the
    third."""


def test_field_docstrings_are_those_under_the_fields() -> None:
    assert field_docstrings(Example) == {"one": "Of the first.", "three": "Of the\n    third."}


def test_the_committed_page_is_up_to_date() -> None:
    """Otherwise: stillroom parameters > docs/parameters.md"""
    assert (ROOT / "docs/parameters.md").read_text() == page(ROOT / "params.yaml")


def test_the_page_has_names_types_bounds_values_and_words() -> None:
    text = page(ROOT / "params.yaml")
    assert "| `refresh_every` | int >= 1 | `6` | Optimizer steps between two refreshes" in text
    assert "| `sampling.max_new_tokens` | int >= 1 |" in text
    assert "## task.settings of gsm8k" in text
    assert "| `layers` | a list or a mapping or null | `[0, 1, 2," in text
