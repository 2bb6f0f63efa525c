"""The payload of a segment: a Zarr group of byte planes. The only module that knows Zarr.

Guarantee: arrays come back as they went in, any window of them; equal arrays give equal bytes. Every chunk carries a
crc32c, and one that is gone is a StoreError and no run of zeros.
Cost: about 3 kB for the group whatever it holds. Read by window: the price of one read is that of its 128 Ki chunks, of
which zstd takes two thirds. Zarr's own reading costs six times as much, in events and threads, so shards are taken
apart here unless `zarrs` is installed.
Not taken: an array for each name (four times the files and metadata), numbers in their own
bytes (the low byte of a gap is noise and its high byte nearly always 0; together zstd codes both 5-9 % worse), Blosc's
shuffle (one Huffman table for both), Zstd's level 3 (2-4 % worse for a tenth of the time, which scoring hides).

Array suffixes: see `pipeline.core.types`; P planes.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
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

_CHUNK = 1 << 17  # rows; what one random access decodes of each plane
_SHARD = 1 << 22  # rows; what one file holds at most
_ZSTD_LEVEL = 19
_CRC = 4  # bytes of a crc32c
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
        own_PN = planes_PN[self.planes]
        size, rows = self.dtype.itemsize, own_PN.shape[1]
        starts = range(0, len(own_PN), size)
        numbers: list[NDArray[Any]] = [_join(own_PN[start : start + size]).view(self.dtype) for start in starts]
        together: NDArray[Any] = numbers[0] if len(numbers) == 1 else np.stack(numbers, -1)
        return together.reshape(rows, *self.shape)


def _join(planes_PN: NDArray[np.uint8]) -> NDArray[Any]:
    """Numbers from their bytes: shifted together, many at a time, where transposing would move byte by byte."""
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
    _columns: Mapping[str, Mapping[str, _Column]]
    _zarrs: bool

    @classmethod
    def open(cls, path: Path) -> "Payload":
        """Read with zarrs where it is installed, which uses many cores: the same files.

        Only read: two zstd libraries need not compress alike, and equal input must give equal bytes everywhere.
        """
        found = importlib.util.find_spec("zarrs") is not None
        with _configured({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"} if found else {}):
            arrays = dict(zarr.open_group(LocalStore(path, read_only=True), mode="r", zarr_format=3).arrays())
        columns = {name: _columns(one.attrs["columns"]) for name, one in arrays.items()}
        return cls(path=path, _arrays=arrays, _columns=columns, _zarrs=found)

    def read(self, windows: Mapping[str, slice]) -> Arrays:
        """The named arrays, of each axis ("head", "position", ...) the rows of its window."""
        found: Arrays = {}
        for axis, window in windows.items():
            planes_PN = self._read(axis, window)
            found |= {name: column.take(planes_PN) for name, column in self._columns[axis].items()}
        return found

    def _read(self, axis: str, window: slice) -> NDArray[np.uint8]:
        stored, path = self._arrays[axis], self.path / axis
        for number in range(window.start // stored.shards[1], -(-window.stop // stored.shards[1])):
            if not (path / f"c.0.{number}").is_file():  # Zarr takes it for a run of its fill value
                raise damaged(path / f"c.0.{number}", "a chunk", "nothing")
        try:
            return np.asarray(stored[:, window]) if self._zarrs else _read_shards(path, stored, window)
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(path, "chunks as written", error) from error


def _read_shards(path: Path, stored: Any, window: slice) -> NDArray[np.uint8]:
    """[P, rows] A window of an array from the shards that it touches."""
    (planes, _), (_, rows) = stored.shape, stored.shards
    planes_PN = np.empty((planes, window.stop - window.start), np.uint8)
    for number in range(window.start // rows, -(-window.stop // rows)):
        first = number * rows
        wanted = range(max(window.start, first), min(window.stop, first + rows))
        target_PN = planes_PN[:, wanted.start - window.start : wanted.stop - window.start]
        with (path / f"c.0.{number}").open("rb", buffering=0) as shard:
            _read_shard(shard, target_PN, range(wanted.start - first, wanted.stop - first), stored.chunks[1], rows)
    return planes_PN


def _read_shard(shard: Any, target_PN: NDArray[np.uint8], wanted: range, chunk: int, rows: int) -> None:
    """Some rows of all planes. A shard ends with where each plane's chunks are: [P, chunks, 2] offsets and sizes."""
    planes, chunks = len(target_PN), rows // chunk
    shard.seek(-(16 * planes * chunks + _CRC), os.SEEK_END)
    places = np.frombuffer(_checked(shard.read()), "<u8").reshape(planes, chunks, 2).tolist()
    zstd, whole = Zstd(), np.empty(chunk, np.uint8)
    for at in range(wanted.start // chunk, -(-wanted.stop // chunk)):
        start, stop = max(wanted.start, at * chunk), min(wanted.stop, (at + 1) * chunk)
        for plane in range(planes):
            offset, size = places[plane][at]
            target = target_PN[plane, start - wanted.start : stop - wanted.start]
            shard.seek(offset)
            decoded = target if len(target) == chunk else whole
            zstd.decode(_checked(shard.read(size)), decoded)
            if decoded is whole:
                target[:] = whole[start - at * chunk : stop - at * chunk]


def _checked(data: bytes) -> bytes:
    """What stands before its crc32c; a ValueError where that is another's."""
    body, sum_ = data[:-_CRC], int.from_bytes(data[-_CRC:], "little")
    if (found := google_crc32c.value(body)) != sum_:
        raise ValueError(f"crc32c {found:08x} instead of {sum_:08x}")
    return body


def _columns(described: Any) -> dict[str, _Column]:
    columns, start = {}, 0
    for name, dtype, *shape in described:
        width = _width(np.dtype(dtype), tuple(shape))
        columns[name] = _Column(dtype=np.dtype(dtype), shape=tuple(shape), planes=slice(start, start + width))
        start += width
    return columns
