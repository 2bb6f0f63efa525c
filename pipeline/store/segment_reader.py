"""Read a segment: a sealed directory of scored sequences, see `schemas.segment`.

* A directory that has a manifest is a whole segment.
* Damage is a StoreError: small files are hashed when the segment is opened, and each chunk of the payload is checked
  when it is read (`pipeline.store.zarr_payload`).
* Scores are decoded for neighbouring sequences together, never sequence by sequence.

Array suffixes: see `pipeline.core.types`; here B is the sequences of a segment.
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
from pipeline.core.types import Rollout, Scores, TokenSequence
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs import Arrays, Codec, build_codec
from pipeline.store.keys import sequence_key
from pipeline.store.manifest import RANKS_FILE, damaged, is_chunk, read_manifest
from pipeline.store.ragged import split_scores
from pipeline.store.windows import Stretch
from pipeline.store.zarr_payload import Payload
from schemas.manifest import Manifest
from schemas.segment import COMPLETION_MASK, PAYLOAD, PLANES, TOKENS

_STRETCH = 1 << 13  # positions, about, that are decoded together


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sealed segment that is checked and open for reading."""

    path: Path
    manifest: Manifest
    index: pa.Table  # schemas.segment.INDEX
    token_ids: pa.Table  # schemas.segment.TOKENS, and COMPLETION_MASK where there is one
    token_of_rank: NDArray[Any]  # [V]
    _codec: Codec
    _payload: Payload
    _bounds: Mapping[str, NDArray[np.int64]]  # [B + 1] of each axis

    @classmethod
    def open(cls, path: Path, *, expect: Mapping[str, object] = {}) -> "Segment":
        """Check the manifest, the names and sizes of all files, and the hashes of all but the payload's chunks.

        Args:
            path: The directory of the segment.
            expect: Values that fields of the manifest must have, by field.

        Raises:
            StoreError: The segment is missing, damaged, or has another value in a field.
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
            token_ids=pq.read_table(path / "tokens.parquet"),
            token_of_rank=_read_ranks(path, manifest),
            _codec=build_codec(manifest.codec, manifest.codec_config),
            _payload=Payload.open(path / "payload.zarr"),
            _bounds={axis: np.append(index[f"{axis}_offset"].to_numpy(), end) for axis, end in totals.items()},
        )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self.manifest.sequences

    def tokens(self, row: int) -> TokenSequence:
        """Return the token ids of one sequence, and its mask."""
        return TokenSequence(**{name: self.token_ids[name][row].as_py() for name in self.token_ids.column_names})

    def differs_from(self, rollouts: Sequence[Rollout]) -> int | None:
        """Return the first row whose tokens are not those of its rollout, None if there is none."""
        if token_table(rollouts).equals(self.token_ids):
            return None
        keys = map(sequence_key, rollouts)
        return next(row for row, key in enumerate(keys) if sequence_key(self.tokens(row)) != key)

    def read(self, start: int, stop: int) -> list[Scores]:
        """Return the scores of the sequences in rows [start, stop), as views of arrays that were decoded together.

        Raises:
            StoreError: A chunk of the payload is damaged.
        """
        stretches = self.read_stretches(start, stop)
        return [scores for stretch in stretches for scores in split_scores(stretch.scores, stretch.positions_B)]

    def read_stretches(self, start: int, stop: int) -> list[Stretch[Scores]]:
        """Return the scores of the sequences in rows [start, stop), in stretches that fit into the processor's cache.

        Raises:
            StoreError: A chunk of the payload is damaged.
        """
        assert 0 <= start <= stop <= len(self), f"rows {start}:{stop} of {len(self)}"
        window = {axis: slice(int(ends[start]), int(ends[stop])) for axis, ends in self._bounds.items()}
        arrays = self._payload.read(window)
        ends = self._bounds["position"]
        every = np.arange(ends[start], ends[stop], _STRETCH)[1:]
        cuts = np.unique([start, *np.searchsorted(ends[:stop], every), stop]).tolist()
        return [self._decode(arrays, start, rows) for rows in itertools.pairwise(cuts)]

    def _decode(self, arrays: Arrays, first: int, rows: tuple[int, int]) -> Stretch[Scores]:
        """Decode the sequences in `rows` from arrays that begin with row `first`."""
        (start, stop), cut = rows, {}
        for name, array in arrays.items():
            ends = self._bounds[PLANES[PAYLOAD[name].axes[0]]]
            cut[name] = array[ends[start] - ends[first] : ends[stop] - ends[first]]
        positions_B = self.index["positions"].slice(start, stop - start).to_numpy()
        return Stretch.of(start, self._codec.decode(cut, self.token_of_rank), positions_B)

    def verify(self) -> None:
        """Hash every file.

        Raises:
            StoreError: A file differs from the manifest.
        """
        _check_files(self.path, self.manifest)
        for name, entry in self.manifest.files.items():
            _check_hash(self.path / name, entry.blake2b)


def token_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Return the token ids of rollouts in the schema TOKENS, and their masks where a token is not scored."""
    columns = {name: [getattr(rollout, name) for rollout in rollouts] for name in TOKENS.names}
    table = pa.Table.from_pydict(columns, schema=TOKENS)
    masks = [rollout.completion_mask if rollout.is_masked else [] for rollout in rollouts]
    return table.append_column(COMPLETION_MASK, [pa.array(masks, COMPLETION_MASK.type)]) if any(masks) else table


def _check_fields(path: Path, manifest: Manifest, expect: Mapping[str, object]) -> None:
    for name, expected in expect.items():
        got = getattr(manifest, name)
        if got != expected:
            raise StoreError(
                path / "manifest.json",
                expected=f"{name} {expected}",
                got=f"{name} {got}",
                remedy="delete the segment and score again, or use what it was written with",
            )


def _check_files(path: Path, manifest: Manifest) -> None:
    """Check the names and sizes of files, without reading them."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    files.pop("manifest.json", None)
    for name in sorted(files.keys() ^ manifest.files.keys()):
        expected, got = ("a file", "nothing") if name in manifest.files else ("nothing", "a file")
        raise damaged(path / name, expected, got)
    for name, entry in manifest.files.items():
        if (size := files[name].stat().st_size) != entry.size_bytes:
            raise damaged(path / name, f"{entry.size_bytes} bytes", f"{size} bytes")


def _check_hash(path: Path, expected: str) -> None:
    try:
        digest = file_digest(path)
    except OSError as error:
        raise damaged(path, f"a file with blake2b {expected}", error) from error
    if digest != expected:
        raise damaged(path, f"blake2b {expected}", digest)


def _read_ranks(path: Path, manifest: Manifest) -> NDArray[Any]:
    own = path / RANKS_FILE
    file = own if own.name in manifest.files else path.parent.parent / "ranks" / f"{manifest.ranks}.parquet"
    _check_hash(file, manifest.ranks)
    ranks: NDArray[Any] = pq.read_table(file)["token_id"].to_numpy()
    return ranks
