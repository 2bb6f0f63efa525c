"""pipeline.store.zarr_payload: any window of the arrays comes back, with Zarr, with zarrs and with neither."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import pipeline.store.zarr_payload as module
from pipeline.store.codecs import Arrays
from pipeline.store.zarr_payload import Payload, write_payload
from schemas.segment import PLANES

ROWS = {"head": 301, "draw": 97, "union": 33, "position": 64}


@pytest.fixture
def arrays() -> Arrays:
    """One column or more an axis: numbers of 1, 2 and 4 bytes, one and two of them a row."""
    rng = np.random.default_rng(0)

    def some(axis: str, dtype: str, *shape: int) -> NDArray[np.generic]:
        numbers = rng.integers(0, 256, (ROWS[axis], *shape, np.dtype(dtype).itemsize), np.uint8)
        return numbers.view(dtype)[..., 0]

    return {
        "head_id": some("head", "<u2"),
        "head_p": some("head", "u1"),
        "draw_id": some("draw", "<u4"),
        "draw_p": some("draw", "u1"),
        "union_id": some("union", "<u2"),
        "union_p": some("union", "u1"),
        "head_n": some("position", "<u2"),
        "tail": some("position", "u1", 2),
        "lse": some("position", "<f4", 2),
    }


def axis_of(name: str, arrays: Arrays) -> str:
    return next(axis for axis, rows in ROWS.items() if rows == len(arrays[name]))


def windows(rows: int) -> list[slice]:
    """At the edges of chunks of 8 and shards of 32, within them, across them, and of nothing."""
    rng = random.Random(rows)
    ends = [sorted(rng.sample(range(rows + 1), 2)) for _ in range(40)]
    return [slice(*bounds) for bounds in [(0, rows), (8, 16), (0, 32), (30, 33), (7, 7), (rows, rows), *ends]]


@pytest.fixture(params=["plain", "zarrs"])
def payload(request: pytest.FixtureRequest, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Payload:
    if request.param == "zarrs":
        pytest.importorskip("zarrs", reason="the optional package zarrs is not installed")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "_CHUNK", 8)
    monkeypatch.setattr(module, "_SHARD", 32)
    write_payload(tmp_path / "payload.zarr", arrays)
    return Payload.open(tmp_path / "payload.zarr")


def test_any_window_comes_back_bit_by_bit(payload: Payload, arrays: Arrays) -> None:
    assert set(ROWS) == set(PLANES.values())
    for axis, rows in ROWS.items():
        for window in windows(rows):
            actual = payload.read({axis: window})
            assert sorted(actual) == sorted(name for name in arrays if axis_of(name, arrays) == axis)
            for name, array in actual.items():
                assert array.dtype == arrays[name].dtype
                assert array.shape == arrays[name][window].shape
                assert array.tobytes() == arrays[name][window].tobytes()


def test_shards_hold_what_zarr_reads(payload: Payload) -> None:
    group = zarr.open_group(str(payload.path), mode="r")
    for axis, rows in ROWS.items():
        planes_PN = group[axis][:]  # type: ignore[index]
        assert planes_PN.any()
        assert all(np.array_equal(payload._read(axis, window), planes_PN[:, window]) for window in windows(rows))
