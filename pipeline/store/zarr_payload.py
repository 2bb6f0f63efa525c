"""Store the payload of a segment: a Zarr group of byte planes. This is the only module that uses Zarr.

* Arrays are read as they were written, in any window, and equal arrays give equal bytes.
* Every chunk has a crc32c. A damaged or missing chunk is a StoreError; Zarr itself would read a missing one as zeros.
* Cost: about 3 kB per group. A read decodes whole chunks of 128 Ki rows, of which zstd takes two thirds of the time.
* Zarr's own reading takes six times as long, in events and threads. So this module reads shards itself, unless `zarrs`
  is installed.

Array suffixes: see `pipeline.core.types`; here P is the planes.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from pipeline.store.codecs import Arrays
from pipeline.store.manifest import damaged
from schemas.segment import PAYLOAD, PLANES

_CHUNK = 1 << 17  # rows of a plane that one random access decodes
_SHARD = 1 << 22  # the largest number of rows in a file
_ZSTD_LEVEL = 19
_CRC = 4  # bytes of a crc32c
_CONFIGURING = Lock()


def write_payload(root: Path, arrays: Arrays) -> None:
    """Write the arrays of a codec, those along one axis together."""
    with _configured({"json_indent": None}):
        group = zarr.create_group(LocalStore(root), zarr_format=3)
    for axis, name in PLANES.items():
        columns = [column for column in PAYLOAD if column in arrays and PAYLOAD[column].axes[0] == axis]
        _write(group, name, {column: arrays[column] for column in columns})


@contextmanager
def _configured(values: Mapping[str, Any]) -> Iterator[None]:
    """Set Zarr's configuration, which all threads share: a lock keeps one thread from resetting another's."""
    with _CONFIGURING, zarr.config.set(values):
        yield


def _write(group: Any, name: str, arrays: Arrays) -> None:
    assert all(array.dtype.name in PAYLOAD[column].dtypes for column, array in arrays.items())
    planes_PN = np.concatenate([_planes(array) for array in arrays.values()])
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
            attributes={"columns": [[column, _little(a.dtype).str, *a.shape[1:]] for column, a in arrays.items()]},
        )
    if rows:
        stored[...] = planes_PN


def _planes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of each row [P, N], the least significant byte of each number first."""
    little = np.ascontiguousarray(array.astype(_little(array.dtype), copy=False))
    return little.view(np.uint8).reshape(len(array), _width(array.dtype, array.shape[1:])).T


def _little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def _width(dtype: np.dtype[Any], shape: Sequence[int]) -> int:
    """Return the number of planes of a column."""
    return int(dtype.itemsize * np.prod(shape, dtype=int))


def _arrays(planes_PN: NDArray[np.uint8], columns: Any) -> Arrays:
    """Return the arrays whose planes are stored one after another, by their description in the attributes."""
    arrays: Arrays = {}
    first, rows = 0, planes_PN.shape[1]
    for name, kind, *shape in columns:
        dtype = np.dtype(kind)
        starts = range(first, first + _width(dtype, shape), dtype.itemsize)
        numbers = [_join(planes_PN[start : start + dtype.itemsize]).view(dtype) for start in starts]
        arrays[name] = (numbers[0] if len(numbers) == 1 else np.stack(numbers, -1)).reshape(rows, *shape)
        first = starts.stop
    return arrays


def _join(planes_PN: NDArray[np.uint8]) -> NDArray[Any]:
    """Return numbers from their bytes, joined by shifts of whole planes; transposing would move single bytes."""
    joined: NDArray[Any] = planes_PN[-1]
    if len(planes_PN) == 1:
        return joined
    joined = joined.astype(f"<u{len(planes_PN)}")
    for plane in planes_PN[-2::-1]:
        joined <<= 8
        joined |= plane
    return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """An open payload."""

    path: Path
    _arrays: Mapping[str, Any]  # Zarr arrays
    _zarrs: bool

    @classmethod
    def open(cls, path: Path) -> "Payload":
        """Open a payload; `zarrs` reads it if it is installed, on many cores.

        `zarrs` never writes: its zstd library may compress differently, and equal input must give equal bytes.
        """
        zarrs = importlib.util.find_spec("zarrs") is not None
        with _configured({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if zarrs else {}):
            arrays = dict(zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3).arrays())
        return cls(path=path, _arrays=arrays, _zarrs=zarrs)

    def read(self, windows: Mapping[str, slice]) -> Arrays:
        """Return the named arrays.

        Args:
            windows: The rows to read of each axis ("head", "draw", "union", "position").

        Raises:
            StoreError: A chunk is damaged or missing.
        """
        arrays: Arrays = {}
        for axis, window in windows.items():
            arrays |= _arrays(self._read(axis, window), self._arrays[axis].attrs["columns"])
        return arrays

    def _read(self, axis: str, window: slice) -> NDArray[np.uint8]:
        stored, path = self._arrays[axis], self.path / axis
        for number in range(window.start // stored.shards[1], -(-window.stop // stored.shards[1])):
            if not (path / f"c.0.{number}").is_file():  # Zarr would return its fill value
                raise damaged(path / f"c.0.{number}", "a chunk", "nothing")
        try:
            return np.asarray(stored[:, window]) if self._zarrs else _read_shards(path, stored, window)
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(path, "chunks as written", error) from error


def _read_shards(path: Path, stored: Any, window: slice) -> NDArray[np.uint8]:
    """Read a window [P, rows] of an array from the shards that contain it."""
    (planes, _), (_, rows) = stored.shape, stored.shards
    planes_PN = np.empty((planes, window.stop - window.start), np.uint8)
    for number in range(window.start // rows, -(-window.stop // rows)):
        first = number * rows
        part = range(max(window.start, first), min(window.stop, first + rows))
        target_PN = planes_PN[:, part.start - window.start : part.stop - window.start]
        with (path / f"c.0.{number}").open("rb", buffering=0) as shard:
            _read_shard(shard, target_PN, range(part.start - first, part.stop - first), stored.chunks[1], rows)
    return planes_PN


def _read_shard(shard: Any, target_PN: NDArray[np.uint8], part: range, chunk: int, rows: int) -> None:
    """Read some rows of all planes. A shard ends with the offset and size of each plane's chunks [P, chunks, 2]."""
    planes, chunks = len(target_PN), rows // chunk
    shard.seek(-(16 * planes * chunks + _CRC), os.SEEK_END)
    places = np.frombuffer(_checked(shard.read()), "<u8").reshape(planes, chunks, 2).tolist()
    zstd, whole = Zstd(), np.empty(chunk, np.uint8)
    for at in range(part.start // chunk, -(-part.stop // chunk)):
        start, stop = max(part.start, at * chunk), min(part.stop, (at + 1) * chunk)
        for plane in range(planes):
            offset, size = places[plane][at]
            target = target_PN[plane, start - part.start : stop - part.start]
            shard.seek(offset)
            decoded = target if len(target) == chunk else whole
            zstd.decode(_checked(shard.read(size)), decoded)
            if decoded is whole:
                target[:] = whole[start - at * chunk : stop - at * chunk]


def _checked(data: bytes) -> bytes:
    """Return the bytes before the crc32c at the end; raise a ValueError if the crc32c is wrong."""
    body, stored = data[:-_CRC], int.from_bytes(data[-_CRC:], "little")
    if (computed := google_crc32c.value(body)) != stored:
        raise ValueError(f"crc32c {computed:08x} instead of {stored:08x}")
    return body
