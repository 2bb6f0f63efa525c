"""manifest.json: what a segment is, which files it has, and the hash of each file.

* The segment id is a digest of every other field, so an altered value is noticed.
* `pipeline.store.manifest` decodes the file, and refuses a field that is unknown, missing or of another type.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a segment."""

    size_bytes: int
    blake2b: str  # 256 bits, hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The difference between the teacher's scores and what a reader decodes, over a sample of the positions.

    All fields are 0 in a checkout's segment (work/**/segment). Its scores may come from the store, where rounding
    them a second time changes nothing, so a measured error would depend on whether the store had them. The errors of
    the first rounding are in the manifests of the store's segments.
    """

    positions: int  # that were compared
    sqrt_p_max: float  # error of the square root of a probability; entries and masses alike
    sqrt_p_mean: float
    log_p_max: float  # nats, of probabilities of at least 0.001
    forward_kl: float  # nats per position, from the teacher's row to the decoded row


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What all sequences of a segment have in common: who scored them, and how the scores are packed."""

    scorer: str  # fingerprint of teacher, scoring parameters and codec
    teacher: str  # fingerprint of the model
    tokenizer: str  # fingerprint
    template: str  # fingerprint of the chat template, "" where there is none
    engine: str
    dtype: str  # of the teacher's body
    vocab_size: int
    temperatures: tuple[float, ...]  # the first is 1
    scoring: dict[str, Any]  # the other parameters behind `scorer`, for readers
    codec: str
    codec_config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(SegmentHeader):
    """Who scored what, how it is packed, how much there is, and the files that hold it."""

    format: str  # `schemas.segment.FORMAT` of the writer
    error_bounds: dict[str, Any]  # what the codec guarantees, by quantity
    measured: Measured
    ranks: str  # blake2b of the file of ranks, wherever it is stored
    sequences: int
    positions: int
    head_entries: int  # top tokens of all positions
    draws: int  # tail samples, as they are stored
    union_entries: int  # student-support tokens
    files: dict[str, FileEntry]  # by path relative to the segment; all but the manifest

    @property
    def segment_id(self) -> str:
        """The id: 32 hex digits that depend on everything in the segment and on nothing else."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_text(self) -> str:
        """Return the contents of manifest.json; the segment id is among the fields."""
        fields = dataclasses.asdict(self) | {"segment_id": self.segment_id}
        return json.dumps(fields, indent=1, sort_keys=True) + "\n"
