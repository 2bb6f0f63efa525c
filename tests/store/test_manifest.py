"""pipeline.store.manifest: a manifest is read only as it was written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.errors import StoreError
from pipeline.store.manifest import decode_manifest, read_manifest
from schemas.manifest import FileEntry, Manifest, Measured
from schemas.segment import FORMAT


def manifest() -> Manifest:
    return Manifest(
        format=FORMAT,
        scorer="s",
        teacher="é teacher",
        tokenizer="t",
        template="",
        engine="transformers",
        dtype="float32",
        vocab_size=300,
        temperatures=(1.0, 2.0),
        scoring={"threshold": 0.005},
        codec="sqrt8",
        codec_config={"levels": 128, "floor_nats": 20.0},
        error_bounds={"sqrt_p": 0.004},
        measured=Measured(positions=2, sqrt_p_max=0.001, sqrt_p_mean=0.0005, log_p_max=0.01, forward_kl=1e-6),
        ranks="00",
        sequences=1,
        positions=2,
        head_entries=3,
        draws=0,
        union_entries=0,
        files={"index.parquet": FileEntry(size_bytes=3, blake2b="ab")},
    )


def fields() -> dict[str, Any]:
    """Return the fields of manifest.json, of which the segment id is one."""
    return dict(json.loads(manifest().to_text()))


def spelled(value: dict[str, Any]) -> str:
    """Return the text of manifest.json for these fields."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def test_a_manifest_is_read_as_it_was_written() -> None:
    text = manifest().to_text()
    again = decode_manifest(text)
    assert again == manifest()
    assert again.to_text() == text == spelled(fields())
    assert again.segment_id == manifest().segment_id
    assert len(again.segment_id) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "manifest.colour: expected one of: scorer, teacher, tokenizer,"),
        ({"positions": None}, "manifest.positions: expected int, got null"),
        ({"positions": 2.0}, "manifest.positions: expected int, got 2.0 (float)"),
        ({"scoring": []}, "manifest.scoring: expected a mapping, got [] (list)"),
        ({"temperatures": "12"}, "manifest.temperatures: expected a list, got '12' (str)"),
        (
            {"files": {"index.parquet": {"size_bytes": 3}}},
            "manifest.files.index.parquet.blake2b: expected str, got nothing",
        ),
        ({"files": {"index.parquet": 3}}, "manifest.files.index.parquet: expected a mapping, got 3 (int)"),
        ({"measured": 0.1}, "manifest.measured: expected a mapping, got 0.1 (float)"),
        ({"measured": {"positions": 2}}, "manifest.measured.sqrt_p_max: expected float, got nothing"),
        ({"teacher": "other"}, "segment_id: expected"),
        ({"segment_id": "0"}, "segment_id: expected"),
    ],
)
def test_a_changed_manifest_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        decode_manifest(spelled(fields() | change))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", [*fields()])
def test_every_field_is_needed(name: str) -> None:
    value = fields()
    del value[name]
    with pytest.raises(ValueError, match=rf"^(manifest\.{name}: expected .*, got nothing|segment_id: .*, got None)"):
        decode_manifest(spelled(value))


def test_another_spelling_is_refused() -> None:
    text = json.dumps(fields())
    with pytest.raises(ValueError, match="spelling"):
        decode_manifest(text)


def test_a_damaged_file_is_reported_with_its_remedy(tmp_path: Path) -> None:
    text = replace(manifest(), positions=3).to_text()
    (tmp_path / "manifest.json").write_text(text.replace('"positions": 3', '"positions": "3"'), encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/manifest.json: expected a manifest as written, got '3' (str) where manifest.positions should be "
        "int; delete the segment and score again"
    )
