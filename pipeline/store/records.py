"""Scored sequences: the rows of a segment."""

from dataclasses import dataclass

from pipeline.core.types import Rollout, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSequence:
    """A rollout and the teacher's scores of its completion, one position per completion token."""

    rollout: Rollout
    scores: Scores
