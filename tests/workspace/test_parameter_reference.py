"""docs/parameters.md and the JSON schema of params.yaml contain what the decoder checks."""

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.parameter_reference import page, parameter_schema

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_up_to_date() -> None:
    """If it is not, run `stillroom parameters > docs/parameters.md`."""
    assert (ROOT / "docs/parameters.md").read_text(encoding="utf-8") == page(ROOT / "params.yaml")


def test_the_committed_schema_is_up_to_date() -> None:
    """If it is not, run `stillroom parameters --schema > schemas/params.schema.json`."""
    assert json.loads((ROOT / "schemas/params.schema.json").read_text(encoding="utf-8")) == parameter_schema()


def test_the_page_has_names_types_bounds_values_and_descriptions() -> None:
    text = page(ROOT / "params.yaml")
    assert "|`refresh_every`|int >= 1|`8`|Optimizer steps between two refreshes" in text
    assert "|`sampling.max_new_tokens`|int >= 1|" in text
    assert "|`student_fraction`|float 0 to 1 or a mapping|`0.5`|" in text
    assert "|`max_staleness`|float > 0 or null|`null`|" in text
    assert "## task.settings of gsm8k" in text
    assert "|`layers`|a list or a mapping or null|`[0, 1, 2," in text


def test_the_page_is_short_enough_to_read() -> None:
    assert len(page(ROOT / "params.yaml").replace("|", " ").split()) <= 3000


def test_the_schema_accepts_the_committed_parameters_and_refuses_mistakes() -> None:
    schema, document = parameter_schema(), read_yaml(ROOT / "params.yaml")
    jsonschema.validate(document, schema)
    for section, change in {"seed": "0", "batches": {}, "task": document["task"] | {"settings": {}}}.items():
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document | {section: change}, schema)
