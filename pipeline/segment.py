"""One segment: a sealed directory of scored sequences.

Guarantee: a directory that has a manifest is a whole segment. Everything else is hashed and synced before it, and one
rename makes it visible, so a killed writer leaves a `.tmp-*` directory that nobody reads. Equal input gives equal
bytes, and writing what was read gives them again. Damage is a StoreError: small files are hashed on opening, the
payload checks itself (`pipeline.payload`).
Cost: beside its scores 14-25 kB for metadata, index and ranks, and 2 bytes a token.
Not taken: appending (a DVC-tracked file may be a read-only link), one Zarr zip (unreadable when killed before
closing), a database of blobs (nobody else could read it), tokens and ranks as they are for memory mapping (5 and 11
times the bytes, more than the scores themselves in a small segment).

Array suffixes: see `pipeline.records`; B sequences of a segment.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.codecs import Arrays, Codec, build_codec
from pipeline.codecs.accuracy import measure
from pipeline.errors import StoreError
from pipeline.fingerprint import file_digest
from pipeline.payload import Payload, damaged, is_chunk, write_payload
from pipeline.ragged import GROUPS, join_scores, split_scores
from pipeline.records import Rollout, Scores
from pipeline.sequences import ScoredSequence, SegmentHeader, index_table
from pipeline.windows import Stretch
from schemas.manifest import FileEntry, Manifest, Measured
from schemas.segment import FORMAT, PAYLOAD, PLANES, RANKS, TOKENS

_RANKS = "ranks.parquet"
_ZSTD_LEVEL = 19
_STRETCH = 1 << 13  # positions, more or less, decoded together
_NOT_MEASURED = Measured(positions=0, sqrt_p_max=0.0, sqrt_p_mean=0.0, log_p_max=0.0, forward_kl=0.0)


def write_segment(
    path: Path, sequences: Sequence[ScoredSequence], header: SegmentHeader, token_of_rank: NDArray[Any]
) -> Manifest:
    """Write a sealed segment at `path`, or nothing; `token_of_rank` [V] is a permutation.

    A segment of the same content at `path` stays; another is a StoreError.
    """
    with temporary_directory(path.parent) as temporary:
        manifest = fill(temporary, sequences, header, token_of_rank, in_store=False)
        reveal(temporary, path, manifest)
    return manifest


def fill(
    root: Path,
    sequences: Sequence[ScoredSequence],
    header: SegmentHeader,
    token_of_rank: NDArray[Any],
    *,
    in_store: bool,
) -> Manifest:
    """All files of a segment, synced, the manifest last.

    In a store the ranks lie in `ranks/` beside the segment's parent, and the manifest tells the errors that were
    measured. Elsewhere they are part of the segment; its scores may have been read from a store, where the error is
    nil the second time, so that telling it would make warm and cold runs differ.
    """
    codec = build_codec(header.codec, header.codec_config)
    arrays, index, measured = _pack(sequences, header, codec, token_of_rank)
    write_payload(root / "payload.zarr", arrays)
    write_index(root / "index.parquet", index)
    rollouts = [one.rollout for one in sequences]
    tokens = {name: [getattr(one, name) for one in rollouts] for name in TOKENS.names}
    _write_ids(root / "tokens.parquet", pa.Table.from_pydict(tokens, schema=TOKENS), "BYTE_STREAM_SPLIT")
    ranks = _write_ranks(root, token_of_rank, in_store=in_store)
    files = {}
    for file in sorted(file for file in root.rglob("*") if file.is_file()):
        _sync(file)
        entry = FileEntry(size_bytes=file.stat().st_size, blake2b=file_digest(file))
        files[file.relative_to(root).as_posix()] = entry
    described = Manifest(
        format=FORMAT,
        **asdict(header),
        error_bounds=asdict(codec.bounds),
        measured=measured if in_store else _NOT_MEASURED,
        ranks=ranks,
        sequences=len(sequences),
        positions=len(arrays["head_n"]),
        head_entries=int(arrays["head_n"].sum()),
        draws=int(arrays["draw_n"].sum()),
        union_entries=int(arrays["union_n"].sum()),
        files=files,
    )
    text = described.to_text()
    (root / "manifest.json").write_text(text)
    _sync(root / "manifest.json")
    _sync_directories(root)
    return Manifest.from_text(text)


def copy_files(source: "Segment", root: Path) -> None:
    """All files of a segment as they are, synced, the manifest last; ranks that lie outside it go to the store's."""
    for name in (*source.manifest.files, "manifest.json"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, target)
        _sync(target)
    if _RANKS not in source.manifest.files:
        _write_ranks(root, source.token_of_rank, in_store=True)
    _sync_directories(root)


def _pack(
    sequences: Sequence[ScoredSequence], header: SegmentHeader, codec: Codec, token_of_rank: NDArray[Any]
) -> tuple[Arrays, pa.Table, Measured]:
    """The encoded arrays, the index with statistics of what they decode to, and how far that is from the scores."""
    vocab, temperatures = header.vocab_size, header.temperatures
    assert temperatures[:1] == (1.0,), "the first temperature is 1"
    assert np.array_equal(np.sort(token_of_rank), np.arange(vocab)), "token_of_rank is no permutation of V"
    positions_B = np.array([len(one.rollout.completion_ids) for one in sequences], dtype=np.int64)
    scores = join_scores([one.scores for one in sequences], len(temperatures))
    assert [len(one.scores.head_n) for one in sequences] == positions_B.tolist(), "one score a completion token"
    rank_of_token = np.empty(vocab, dtype=np.int64)
    rank_of_token[token_of_rank] = np.arange(vocab)
    arrays = codec.encode(scores, rank_of_token)
    decoded = codec.decode(arrays, token_of_rank)
    stored_n = {group: arrays[f"{group}_n"] for group in GROUPS}
    index = index_table([one.rollout for one in sequences], stored_n, decoded, positions_B, header.scorer)
    return arrays, index, measure(scores, decoded, codec)


def write_index(path: Path, index: pa.Table) -> None:
    """Without statistics: keys are random, so none of them could tell that a key is not there."""
    pq.write_table(index, path, compression="zstd", write_statistics=False)


def _write_ids(file: Any, table: pa.Table, encoding: str) -> None:
    """Token ids, in the encoding of Parquet that suits their order."""
    pq.write_table(
        table,
        file,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=False,
        column_encoding=encoding,
        write_statistics=False,
    )


def _write_ranks(root: Path, token_of_rank: NDArray[Any], *, in_store: bool) -> str:
    """Write the ranks into the segment or, once, into the store; returns the blake2b of the file."""
    buffer = io.BytesIO()
    # tokens that the corpus lacks ascend: their differences take a few bits
    _write_ids(buffer, pa.table({"token_id": pa.array(token_of_rank, pa.int32())}, schema=RANKS), "DELTA_BINARY_PACKED")
    name = hashlib.blake2b(buffer.getvalue(), digest_size=32).hexdigest()
    if not in_store:
        (root / _RANKS).write_bytes(buffer.getvalue())
        return name
    path = root.parent.parent / "ranks" / f"{name}.parquet"
    if not path.is_file() or file_digest(path) != name:
        with temporary_directory(path.parent) as temporary:
            (temporary / path.name).write_bytes(buffer.getvalue())
            _sync(temporary / path.name)
            os.replace(temporary / path.name, path)
        _sync(path.parent)
    return name


def _sync(path: Path) -> None:
    """Flush a file or a directory to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directories(root: Path) -> None:
    for directory in sorted((one for one in root.rglob("*") if one.is_dir()), reverse=True):
        _sync(directory)
    _sync(root)


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory for one write, named after its owner for `Store.sweep`; gone at the end unless renamed."""
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{socket.gethostname()}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def reveal(temporary: Path, path: Path, manifest: Manifest) -> None:
    """Make a segment visible under its name; another writer of the same content may have been first."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        found = read_manifest(path).segment_id
        if found != manifest.segment_id:
            raise StoreError(
                path, expected=f"nothing or segment {manifest.segment_id}", got=f"segment {found}", remedy="remove it"
            ) from None
    _sync(path.parent)


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


def read_manifest(path: Path) -> Manifest:
    """The manifest of a segment; a StoreError where there is none, or one of another format."""
    file = path / "manifest.json"
    try:
        text = file.read_text()
        found = json.loads(text)["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise damaged(file, "the manifest of a sealed segment", "nothing") from None
    except (ValueError, LookupError, TypeError) as error:
        raise damaged(file, "a manifest", error) from error
    if found != FORMAT:
        raise StoreError(
            file, expected=FORMAT, got=found, remedy="read it with the version that wrote it, or delete it"
        )
    try:
        return Manifest.from_text(text)
    except ValueError as error:
        raise damaged(file, "a manifest as written", error) from error


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
    own = path / _RANKS
    file = own if own.name in manifest.files else path.parent.parent / "ranks" / f"{manifest.ranks}.parquet"
    _check_hash(file, manifest.ranks)
    ranks: NDArray[Any] = pq.read_table(file)["token_id"].to_numpy()
    return ranks
