"""The schemas of files: versions, names and axes."""

import numpy as np

from schemas.segment import INDEX, PAYLOAD, TOKENS


def test_schemas_carry_their_version() -> None:
    assert INDEX.metadata == {b"schema": b"stillroom.segment.index/2"}
    assert TOKENS.metadata == {b"schema": b"stillroom.segment.tokens/2"}
    assert not any(field.nullable for schema in (INDEX, TOKENS) for field in schema)


def test_payload_names_numpy_dtypes_and_known_axes() -> None:
    for array in PAYLOAD.values():
        assert all(np.dtype(name).name == name for name in array.dtypes)
        assert array.axes in {"E", "R", "U", "N", "NH"}
