"""One segment: a sealed directory of scored sequences.

Guarantee: a directory that has a manifest is a whole segment. Everything else is hashed and synced before it, and one
rename makes it visible, so a killed writer leaves a `.tmp-*` directory that nobody reads. Equal input gives equal
bytes, and writing what was read gives them again. Damage is a StoreError: small files are hashed on opening, the
payload checks itself (`pipeline.store.zarr_payload`).
Cost: beside its scores 14-25 kB for metadata, index and ranks, and 2 bytes a token.
Not taken: appending (a DVC-tracked file may be a read-only link), one Zarr zip (unreadable when killed before
closing), a database of blobs (nobody else could read it), tokens and ranks as they are for memory mapping (5 and 11
times the bytes, more than the scores themselves in a small segment).

Array suffixes: see `pipeline.core.types`; B sequences of a segment.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.hashing import file_digest
from pipeline.core.types import Rollout, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs import Arrays, Codec, build_codec
from pipeline.store.manifest import RANKS_FILE, damaged, is_chunk, read_manifest
from pipeline.store.ragged import split_scores
from pipeline.store.stretch import Stretch
from pipeline.store.zarr_payload import Payload
from schemas.manifest import Manifest
from schemas.segment import PAYLOAD, PLANES, TOKENS

_STRETCH = 1 << 13  # positions, more or less, decoded together


# Reading
@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sealed segment, checked and open for reading."""

    path: Path
    manifest: Manifest
    index: pa.Table  # schemas.segment.INDEX
    token_of_rank: NDArray[Any]  # [V]
    _codec: Codec
    _payload: Payload
    _tokens: pa.Table
    _bounds: Mapping[str, NDArray[np.int64]]  # [B + 1] of each axis

    @classmethod
    def open(cls, path: Path, *, expect: Mapping[str, object] = {}) -> "Segment":
        """Open a segment after checking manifest, files, sizes, and the hashes of all but the payload.

        `expect` has values that fields of the manifest must have.
        """
        manifest = read_manifest(path)
        _check_fields(path, manifest, expect)
        _check_files(path, manifest)
        for name, entry in manifest.files.items():
            if not is_chunk(name):
                _check_hash(path / name, entry.blake2b)
        index = pq.read_table(path / "index.parquet")
        totals = {
            "position": manifest.positions,
            "head": manifest.head_entries,
            "draw": manifest.draws,
            "union": manifest.union_entries,
        }
        return cls(
            path=path,
            manifest=manifest,
            index=index,
            token_of_rank=_read_ranks(path, manifest),
            _codec=build_codec(manifest.codec, manifest.codec_config),
            _payload=Payload.open(path / "payload.zarr"),
            _tokens=pq.read_table(path / "tokens.parquet"),
            _bounds={axis: np.append(index[f"{axis}_offset"].to_numpy(), end) for axis, end in totals.items()},
        )

    def __len__(self) -> int:
        return self.manifest.sequences

    def tokens(self, row: int) -> tuple[list[int], list[int]]:
        """Prompt ids and completion ids of one sequence."""
        prompt_ids, completion_ids = (self._tokens[name][row].as_py() for name in TOKENS.names)
        return prompt_ids, completion_ids

    def differs_from(self, rollouts: Sequence[Rollout]) -> int | None:
        """The first of as many rollouts whose tokens are not those of its row; None when all are the same."""
        given = {name: [getattr(one, name) for one in rollouts] for name in TOKENS.names}
        if pa.Table.from_pydict(given, schema=TOKENS).equals(self._tokens):
            return None
        pairs = enumerate(rollouts)
        return next(row for row, one in pairs if self.tokens(row) != (one.prompt_ids, one.completion_ids))

    def read(self, start: int, stop: int) -> list[Scores]:
        """Scores of the sequences in rows [start, stop), views of arrays decoded together."""
        read = self.read_stretches(start, stop)
        return [one for stretch in read for one in split_scores(stretch.scores, stretch.positions_B)]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Scores of the sequences in rows [start, stop), read together and decoded in stretches that a cache holds."""
        assert 0 <= start <= stop <= len(self), f"rows {start}:{stop} of {len(self)}"
        window = {axis: slice(int(ends[start]), int(ends[stop])) for axis, ends in self._bounds.items()}
        arrays = self._payload.read(window)
        ends = self._bounds["position"]
        every = np.arange(ends[start], ends[stop], _STRETCH)[1:]
        cuts = np.unique([start, *np.searchsorted(ends[:stop], every), stop]).tolist()
        return [self._decode(arrays, start, rows) for rows in itertools.pairwise(cuts)]

    def _decode(self, arrays: Arrays, first: int, rows: tuple[int, int]) -> Stretch[Scores]:
        """Scores of some of the sequences in arrays that begin with row `first`."""
        (start, stop), cut = rows, {}
        for name, array in arrays.items():
            ends = self._bounds[PLANES[PAYLOAD[name].axes[0]]]
            cut[name] = array[ends[start] - ends[first] : ends[stop] - ends[first]]
        positions_B = self.index["positions"].slice(start, stop - start).to_numpy()
        return Stretch.of(start, self._codec.decode(cut, self.token_of_rank), positions_B)

    def verify(self) -> None:
        """Hash every file; a StoreError names the first that differs from the manifest."""
        _check_files(self.path, self.manifest)
        for name, entry in self.manifest.files.items():
            _check_hash(self.path / name, entry.blake2b)


def _check_fields(path: Path, manifest: Manifest, expect: Mapping[str, object]) -> None:
    for name, wanted in expect.items():
        found = getattr(manifest, name)
        if found != wanted:
            raise StoreError(
                path / "manifest.json",
                expected=f"{name} {wanted}",
                got=f"{name} {found}",
                remedy="delete the segment and score again, or use what it was written with",
            )


def _check_files(path: Path, manifest: Manifest) -> None:
    """Names and sizes, as far as directory entries tell."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    found.pop("manifest.json", None)
    for name in sorted(found.keys() ^ manifest.files.keys()):
        listed, there = ("a file", "nothing") if name in manifest.files else ("nothing", "a file")
        raise damaged(path / name, listed, there)
    for name, entry in manifest.files.items():
        if (size := found[name].stat().st_size) != entry.size_bytes:
            raise damaged(path / name, f"{entry.size_bytes} bytes", f"{size} bytes")


def _check_hash(path: Path, expected: str) -> None:
    try:
        found = file_digest(path)
    except OSError as error:
        raise damaged(path, f"a file with blake2b {expected}", error) from error
    if found != expected:
        raise damaged(path, f"blake2b {expected}", found)


def _read_ranks(path: Path, manifest: Manifest) -> NDArray[Any]:
    own = path / RANKS_FILE
    file = own if own.name in manifest.files else path.parent.parent / "ranks" / f"{manifest.ranks}.parquet"
    _check_hash(file, manifest.ranks)
    ranks: NDArray[Any] = pq.read_table(file)["token_id"].to_numpy()
    return ranks
