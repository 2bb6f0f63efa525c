"""Scored sequences, and what all sequences of a segment have in common."""

from dataclasses import dataclass
from typing import Any

from pipeline.core.types import Rollout, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSequence:
    """A rollout and the teacher's scores of its completion, one row a completion token."""

    rollout: Rollout
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What all sequences of a segment have in common; ends up in the manifest."""

    scorer: str  # fingerprint of teacher, scoring parameters and codec
    teacher: str
    tokenizer: str
    template: str  # fingerprint of the chat template, "" where there is none
    engine: str
    dtype: str  # of the teacher's body
    vocab_size: int
    temperatures: tuple[float, ...]  # the first is 1
    scoring: dict[str, Any]  # the other parameters behind `scorer`, for people; JSON
    codec: str
    codec_config: dict[str, Any]
