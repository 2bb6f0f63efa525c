"""Write a sealed segment."""

import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.hashing import file_digest
from pipeline.runtime.atomic import sync, sync_directories
from pipeline.store.codecs import Arrays, Codec, build_codec
from pipeline.store.codecs.base import STORED_NAMES
from pipeline.store.codecs.fidelity import measure
from pipeline.store.index import index_table
from pipeline.store.manifest import RANKS_FILE, decode_manifest
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.ragged import join_scores
from pipeline.store.records import ScoredSequence
from pipeline.store.segment_reader import Segment
from pipeline.store.zarr_payload import write_payload
from schemas.manifest import FileEntry, Manifest, Measured, SegmentHeader
from schemas.segment import FORMAT, RANKS, TOKENS

_ZSTD_LEVEL = 19
_NOT_MEASURED = Measured(positions=0, sqrt_p_max=0.0, sqrt_p_mean=0.0, log_p_max=0.0, forward_kl=0.0)


def write_segment(
    path: Path, sequences: Sequence[ScoredSequence], header: SegmentHeader, token_of_rank: NDArray[Any]
) -> Manifest:
    """Write a sealed segment at `path`, or nothing; `token_of_rank` [V] is a permutation.

    A segment of the same content at `path` stays; another is a StoreError.
    """
    with temporary_directory(path.parent) as temporary:
        manifest = write_files(temporary, sequences, header, token_of_rank, in_store=False)
        publish_segment(temporary, path, manifest)
    return manifest


def write_files(
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
        sync(file)
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
    sync(root / "manifest.json")
    sync_directories(root)
    return decode_manifest(text)


def copy_files(source: "Segment", root: Path) -> None:
    """All files of a segment as they are, synced, the manifest last; ranks that lie outside it go to the store's."""
    for name in (*source.manifest.files, "manifest.json"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, target)
        sync(target)
    if RANKS_FILE not in source.manifest.files:
        _write_ranks(root, source.token_of_rank, in_store=True)
    sync_directories(root)


def _pack(
    sequences: Sequence[ScoredSequence], header: SegmentHeader, codec: Codec, token_of_rank: NDArray[Any]
) -> tuple[Arrays, pa.Table, Measured]:
    """The encoded arrays, the index with statistics of what they decode to, and how far that is from the scores."""
    vocab, temperatures = header.vocab_size, header.temperatures
    assert temperatures[:1] == (1.0,), "the first temperature is 1"
    assert np.array_equal(np.sort(token_of_rank), np.arange(vocab)), "token_of_rank is no permutation of V"
    positions_B = np.array([len(one.rollout.completion_ids) for one in sequences], dtype=np.int64)
    scores = join_scores([one.scores for one in sequences], len(temperatures))
    assert [len(one.scores) for one in sequences] == positions_B.tolist(), "one score a completion token"
    rank_of_token = np.empty(vocab, dtype=np.int64)
    rank_of_token[token_of_rank] = np.arange(vocab)
    arrays = codec.encode(scores, rank_of_token)
    decoded = codec.decode(arrays, token_of_rank)
    stored_n = {group: arrays[f"{group}_n"] for group in STORED_NAMES}
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
        (root / RANKS_FILE).write_bytes(buffer.getvalue())
        return name
    path = root.parent.parent / "ranks" / f"{name}.parquet"
    if not path.is_file() or file_digest(path) != name:
        with temporary_directory(path.parent) as temporary:
            (temporary / path.name).write_bytes(buffer.getvalue())
            sync(temporary / path.name)
            os.replace(temporary / path.name, path)
        sync(path.parent)
    return name
