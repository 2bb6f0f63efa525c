"""The payload of a segment: a Zarr group of byte planes. The only module that knows Zarr.

Guarantee: arrays come back as they went in, any window of them; equal arrays give equal bytes. Every chunk carries a
crc32c, and one that is gone is a StoreError and no run of zeros.
Cost: about 3 kB for the group whatever it holds. Read by window: the price of one read is that of its 128 Ki chunks.
Not taken: an array for each name (four times the files and metadata), numbers in their own
bytes (the low byte of a gap is noise and its high byte nearly always 0; together zstd codes both 5-9 % worse), Blosc's
shuffle (one Huffman table for both), Zstd's level 3 (2-4 % worse for a tenth of the time, which scoring hides).

Array suffixes: see `pipeline.records`; P planes.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from pipeline.codecs import Arrays
from pipeline.errors import StoreError
from schemas.segment import PAYLOAD, PLANES

_CHUNK = 1 << 17  # rows; what one random access decodes of each plane
_SHARD = 1 << 22  # rows; what one file holds at most
_ZSTD_LEVEL = 19
_CONFIGURING = Lock()


def write_payload(root: Path, arrays: Arrays) -> None:
    """The named arrays of a codec, those of one axis together."""
    with _configured({"json_indent": None}):
        group = zarr.create_group(LocalStore(root), zarr_format=3)
    for axes, name in PLANES.items():
        _write(group, name, {one: arrays[one] for one in PAYLOAD if one in arrays and PAYLOAD[one].axes[0] == axes})


@contextmanager
def _configured(values: Mapping[str, Any]) -> Iterator[None]:
    """Zarr's configuration is one for all threads, and what leaves it first would end it for the others."""
    with _CONFIGURING, zarr.config.set(values):
        yield


def _write(group: Any, name: str, arrays: Arrays) -> None:
    for one, array in arrays.items():
        assert array.dtype.name in PAYLOAD[one].dtypes
    planes_PN = np.concatenate([_planes(one) for one in arrays.values()])
    planes, rows = planes_PN.shape
    chunk = max(1, min(_CHUNK, rows))
    with _configured({"json_indent": None}):
        stored = group.create_array(
            name,
            shape=planes_PN.shape,
            dtype=np.uint8,
            chunks=(1, chunk),
            shards=(planes, min(_SHARD, -(-max(1, rows) // chunk) * chunk)),
            filters=None,
            compressors=(ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()),
            chunk_key_encoding={"name": "default", "separator": "."},
            fill_value=0,
            config={"write_empty_chunks": True},
            attributes={
                "columns": [[one, _little(array.dtype).str, *array.shape[1:]] for one, array in arrays.items()]
            },
        )
    if rows:
        stored[...] = planes_PN


def _planes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """[P, N] The bytes of each row, the least significant one of each number first."""
    little = np.ascontiguousarray(array.astype(_little(array.dtype), copy=False))
    return little.view(np.uint8).reshape(len(array), _width(array.dtype, array.shape[1:])).T


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def _width(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Planes of a column."""
    return int(dtype.itemsize * np.prod(shape, dtype=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """Where an array lies among the planes of its axis."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of one row
    planes: slice

    def take(self, planes_PN: NDArray[np.uint8]) -> NDArray[Any]:
        own = planes_PN[self.planes]
        rows: NDArray[Any] = own[0] if len(own) == 1 else np.ascontiguousarray(own.T)
        return rows.view(self.dtype).reshape(own.shape[1], *self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """An open payload."""

    path: Path
    _arrays: Mapping[str, Any]  # Zarr arrays
    _columns: Mapping[str, Mapping[str, _Column]]

    @classmethod
    def open(cls, path: Path) -> "Payload":
        """Read with zarrs where it is installed: the same files, several times as fast.

        Only read: two zstd libraries need not compress alike, and equal input must give equal bytes everywhere.
        """
        found = importlib.util.find_spec("zarrs") is not None
        with _configured({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if found else {}):
            arrays = dict(zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3).arrays())
        columns = {name: _columns(one.attrs["columns"]) for name, one in arrays.items()}
        return cls(path=path, _arrays=arrays, _columns=columns)

    def read(self, windows: Mapping[str, slice]) -> Arrays:
        """The named arrays, of each axis ("head", "position", ...) the rows of its window."""
        found: Arrays = {}
        for axis, window in windows.items():
            planes_PN = self._read(axis, window)
            found |= {name: column.take(planes_PN) for name, column in self._columns[axis].items()}
        return found

    def _read(self, axis: str, window: slice) -> NDArray[np.uint8]:
        stored, path = self._arrays[axis], self.path / axis
        try:
            planes_PN = np.asarray(stored[:, window])
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(path, "chunks as written", error) from error
        for number in range(window.start // stored.shards[1], -(-window.stop // stored.shards[1])):
            if not (path / f"c.0.{number}").is_file():  # Zarr takes it for a run of its fill value
                raise damaged(path / f"c.0.{number}", "a chunk", "nothing")
        return planes_PN


def _columns(described: Any) -> dict[str, _Column]:
    columns, start = {}, 0
    for name, dtype, *shape in described:
        width = _width(np.dtype(dtype), tuple(shape))
        columns[name] = _Column(dtype=np.dtype(dtype), shape=tuple(shape), planes=slice(start, start + width))
        start += width
    return columns


def is_chunk(name: str) -> bool:
    """Of a file, by its path: it holds chunks, which have checksums of their own."""
    return name.rsplit("/", 1)[-1].startswith("c.")


def damaged(path: Path, expected: str, got: object) -> StoreError:
    """The error of a segment whose files are not what was written."""
    return StoreError(path, expected=expected, got=got, remedy="delete the segment and score again")
