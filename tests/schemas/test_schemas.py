"""The contracts on disk: versions, names, and a manifest that accepts its own spelling alone."""

import json

import numpy as np
import pytest

from schemas.manifest import FileEntry, Manifest, Measured
from schemas.segment import FORMAT, INDEX, PAYLOAD, TOKENS


def _manifest() -> Manifest:
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


def test_manifest_round_trip() -> None:
    manifest = _manifest()
    text = manifest.to_text()
    again = Manifest.from_text(text)
    assert again == manifest
    assert again.to_text() == text
    assert again.segment_id == manifest.segment_id
    assert len(manifest.segment_id) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "no field 'colour'"),
        ({"positions": None}, "positions: expected int, got None"),
        ({"positions": 2.0}, "positions: expected int, got 2.0 (float)"),
        ({"scoring": []}, "scoring: expected dict"),
        ({"temperatures": "12"}, "temperatures: expected list"),
        ({"files": {"index.parquet": {"size_bytes": 3}}}, "expected a field 'blake2b', got none"),
        ({"files": {"index.parquet": 3}}, "expected a mapping, got int"),
        ({"measured": 0.1}, "measured: expected dict, got 0.1 (float)"),
        ({"measured": {"positions": 2}}, "measured: expected a field 'forward_kl', got none"),
        ({"teacher": "other"}, "segment_id: expected"),
        ({"segment_id": "0"}, "segment_id: expected"),
    ],
)
def test_a_changed_manifest_is_refused(change: dict[str, object], message: str) -> None:
    value = _manifest().to_json() | change
    with pytest.raises(ValueError, match="expected") as caught:
        Manifest.from_json(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", [*_manifest().to_json()])
def test_every_field_is_needed(name: str) -> None:
    value = _manifest().to_json()
    del value[name]
    with pytest.raises(ValueError, match=f"expected a field '{name}', got none"):
        Manifest.from_json(value)


def test_another_spelling_is_refused() -> None:
    text = json.dumps(_manifest().to_json())
    with pytest.raises(ValueError, match="spelling"):
        Manifest.from_text(text)


def test_schemas_carry_their_version() -> None:
    assert INDEX.metadata == {b"schema": b"stillroom.segment.index/2"}
    assert TOKENS.metadata == {b"schema": b"stillroom.segment.tokens/2"}
    assert not any(field.nullable for schema in (INDEX, TOKENS) for field in schema)


def test_payload_names_numpy_dtypes_and_known_axes() -> None:
    for array in PAYLOAD.values():
        assert all(np.dtype(name).name == name for name in array.dtypes)
        assert array.axes in {"E", "R", "U", "N", "NH"}
