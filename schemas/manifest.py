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
    """How far what a reader decodes is from what the teacher said, over some of the positions."""

    positions: int  # compared; 0 in a checkout's segment, which must not depend on what came from the store
    sqrt_p_max: float  # error of the root of a probability, entries and masses alike
    sqrt_p_mean: float
    log_p_max: float  # nats, of those with p >= 0.001
    forward_kl: float  # mean nats from the row as it was, head, union and any other token, to the row as it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Who scored what, how it is packed, how much there is, and the files that hold it."""

    format: str  # `schemas.segment.FORMAT` of the writer
    scorer: str  # fingerprint of teacher, scoring parameters and codec
    teacher: str
    tokenizer: str
    template: str  # fingerprint of the chat template, "" where there is none
    engine: str
    dtype: str  # of the teacher's body
    vocab_size: int
    temperatures: tuple[float, ...]  # the first is 1
    scoring: dict[str, Any]
    codec: str
    codec_config: dict[str, Any]
    error_bounds: dict[str, Any]  # what the codec promises, by quantity
    measured: Measured
    ranks: str  # blake2b of the file of ranks, wherever it lies
    sequences: int
    positions: int
    head_entries: int
    draws: int
    union_entries: int
    files: dict[str, FileEntry]  # by path relative to the segment; all but the manifest

    @property
    def segment_id(self) -> str:
        """32 hex digits that depend on everything in the segment and on nothing else."""
        text = json.dumps(self._fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Values that `json` can write; the segment id is among them."""
        return self._fields() | {"segment_id": self.segment_id}

    def _fields(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"temperatures": list(self.temperatures)}

    def to_text(self) -> str:
        """The one spelling of manifest.json."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"
