"""Write a segment: encode the scores, write and hash every file, and seal the directory with the manifest.

* Every file is hashed and synced before the manifest is written, and one rename makes the segment visible. So a killed
  writer leaves a `.tmp-*` directory, which no reader opens.
* Equal input gives equal bytes, and writing decoded scores gives the same bytes again.
* Cost beside the scores: 14 to 25 kB for metadata, index and ranks, and 2 bytes per token.

Array suffixes: see `pipeline.core.types`.
"""

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
from pipeline.core.types import ScoredSequence, Scores
from pipeline.runtime.atomic import sync, sync_directories
from pipeline.store.codecs import Arrays, Codec, build_codec
from pipeline.store.codecs.base import STORED_NAMES
from pipeline.store.codecs.fidelity import measure
from pipeline.store.index import index_table
from pipeline.store.manifest import RANKS_FILE, decode_manifest
from pipeline.store.publish import publish_segment, temporary_directory
from pipeline.store.ragged import ENTRIES, join_scores
from pipeline.store.segment_reader import Segment, token_table
from pipeline.store.zarr_payload import write_payload
from schemas.manifest import FileEntry, Manifest, Measured, SegmentHeader
from schemas.segment import FORMAT, RANKS, TOKENS

_ZSTD_LEVEL = 19
_NOT_MEASURED = Measured(positions=0, sqrt_p_max=0.0, sqrt_p_mean=0.0, log_p_max=0.0, forward_kl=0.0)


def write_segment(
    path: Path, sequences: Sequence[ScoredSequence], header: SegmentHeader, token_of_rank: NDArray[Any]
) -> Manifest:
    """Write a sealed segment at `path`, whole or not at all; a segment of the same content at `path` stays.

    Args:
        path: The directory of the segment.
        sequences: The rollouts with their scores.
        header: Scorer and codec.
        token_of_rank: The token id of each frequency rank [V], a permutation.

    Raises:
        StoreError: There is another segment at `path`.
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
    """Write all files of a segment into `root` and sync them, the manifest last.

    Args:
        root: An empty directory.
        sequences: The rollouts with their scores.
        header: Scorer and codec.
        token_of_rank: The token id of each frequency rank [V], a permutation.
        in_store: True for a segment of the store: its ranks are stored once for all segments, in `ranks/`, and the
            manifest contains the measured errors. False for a segment that contains its ranks; see `Measured` for why
            its manifest has no errors.
    """
    codec = build_codec(header.codec, header.codec_config)
    arrays, index, measured = _pack(sequences, header, codec, token_of_rank)
    write_payload(root / "payload.zarr", arrays)
    write_index(root / "index.parquet", index)
    tokens = token_table([sequence.rollout for sequence in sequences])
    _write_ids(root / "tokens.parquet", tokens, {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in TOKENS.names})
    ranks = _write_ranks(root, token_of_rank, in_store=in_store)
    manifest = Manifest(
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
        files={file.relative_to(root).as_posix(): _sealed(file) for file in sorted(root.rglob("*")) if file.is_file()},
    )
    (root / "manifest.json").write_text(manifest.to_text(), encoding="utf-8")
    sync(root / "manifest.json")
    sync_directories(root)
    return decode_manifest(manifest.to_text())


def _sealed(file: Path) -> FileEntry:
    """Sync a file, and return its entry in the manifest."""
    sync(file)
    return FileEntry(size_bytes=file.stat().st_size, blake2b=file_digest(file))


def copy_files(source: Segment, root: Path) -> None:
    """Copy all files of a segment into `root` and sync them, the manifest last.

    Ranks that are not among the segment's own files go to the ranks of the store that contains `root`.
    """
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
    """Return the encoded arrays, the index with means of the decoded scores, and the errors of the decoded scores."""
    assert header.temperatures[:1] == (1.0,), "the first temperature is 1"
    assert np.array_equal(np.sort(token_of_rank), np.arange(header.vocab_size)), "token_of_rank is no permutation of V"
    rollouts = [sequence.rollout for sequence in sequences]
    positions_B = np.array([rollout.positions for rollout in rollouts], dtype=np.int64)
    scores = join_scores([sequence.scores for sequence in sequences], len(header.temperatures))
    assert [len(sequence.scores) for sequence in sequences] == positions_B.tolist(), "one row per scored token"
    assert not _has_nan(scores), "NaN among the scores"
    arrays = codec.encode(scores, np.argsort(token_of_rank))
    decoded = codec.decode(arrays, token_of_rank)
    stored_counts = {group: arrays[f"{group}_n"] for group in STORED_NAMES}
    index = index_table(rollouts, stored_counts, decoded, positions_B, header.scorer)
    return arrays, index, measure(scores, decoded, codec)


def _has_nan(scores: Scores) -> bool:
    """Return whether a number is NaN; the tail mean may be, where there is none."""
    stats = scores.stats
    entries = [getattr(scores, name).logp for name in ENTRIES]
    return any(np.isnan(a).any() for a in (*entries, stats.tail_NH, stats.entropy_NH, stats.lse_NH, stats.token_logp_N))


def write_index(path: Path, index: pa.Table) -> None:
    """Write the index without statistics: keys are random, so no statistic could exclude a key."""
    pq.write_table(index, path, compression="zstd", write_statistics=False)


def _write_ids(file: Any, table: pa.Table, encoding: str | dict[str, str]) -> None:
    """Write token ids in the encodings of Parquet that suit their order, by column or for all columns."""
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
    """Write the ranks into the segment or, once for all segments, into the store; return the blake2b of the file."""
    buffer = io.BytesIO()
    # Tokens that do not occur in the corpus are in ascending order, so their differences take a few bits.
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
