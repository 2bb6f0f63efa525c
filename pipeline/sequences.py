"""Scored sequences: what a segment is made of, how a sequence is found again, and its row in the index.

Keys are content: sha256 over token ids, so a sequence has one name in every checkout. The index's statistics are
those of the decoded scores, so that writing what was read gives the same bytes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fingerprint import ids_digest
from pipeline.ragged import offsets, owners
from pipeline.records import Rollout, Scores
from schemas.segment import INDEX

Key: TypeAlias = tuple[str, str]  # sequence key, support key

_COPIED = ("rollout_id", "prompt_id", "source", "author", "ended")


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


def sequence_key(rollout: Rollout) -> str:
    """Hex sha256 of prompt and completion ids; moving a token from one to the other changes it."""
    return hashlib.sha256(ids_digest(rollout.prompt_ids) + ids_digest(rollout.completion_ids)).hexdigest()


def support_key(rollout: Rollout) -> str:
    """Hex sha256 of what the author found likely and drew; one and the same for all rollouts without either."""
    parts = b""
    for lists in (rollout.support_ids, rollout.tail_ids):
        named = lists if any(lists) else []
        parts += ids_digest([len(ids) for ids in named]) + ids_digest([token for ids in named for token in ids])
    offsets = rollout.tail_offset if any(rollout.tail_ids) else []
    return hashlib.sha256(parts + np.asarray(offsets, "<f4").tobytes()).hexdigest()


def score_keys(scorer: str, keys: Iterable[Key]) -> list[bytes]:
    """16 bytes for scorer, sequence and support together: the narrow column that a look-up scans."""
    ours, found = hashlib.blake2b(f"{scorer}/".encode(), digest_size=16), []
    for sequence, support in keys:
        one = ours.copy()  # half the time of starting anew
        one.update(f"{sequence}/{support}".encode())
        found.append(one.digest())
    return found


def index_table(
    rollouts: Sequence[Rollout],
    stored_n: Mapping[str, NDArray[Any]],
    decoded: Scores,
    positions_B: NDArray[Any],
    scorer: str,
) -> pa.Table:
    """The index of a segment, one row a sequence.

    `stored_n` [N] counts the stored entries of each group, `decoded` holds all positions, `positions_B` how many are
    whose.
    """
    start_B = np.cumsum(positions_B) - positions_B
    realised_N = np.array([token for one in rollouts for token in one.completion_ids], dtype=np.int64)
    keys = [(sequence_key(one), support_key(one)) for one in rollouts]
    columns = {
        "score_key": score_keys(scorer, keys),
        "sequence_key": [sequence for sequence, _ in keys],
        "support_key": [support for _, support in keys],
        "scorer": [scorer] * len(rollouts),
        **{name: [getattr(one, name) for one in rollouts] for name in _COPIED},
        "position_offset": start_B,
        **{f"{group}_offset": offsets(n_N)[start_B] for group, n_N in stored_n.items()},
        "positions": positions_B,
        "mean_entropy": sequence_means(decoded.entropy_NH[:, 0], positions_B),
        "mean_tail": sequence_means(decoded.tail_NH[:, 0], positions_B),
        "teacher_nll": sequence_means(-decoded.token_logp_N, positions_B),
        "top1_agreement": sequence_means(_agrees(decoded, realised_N), positions_B),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in INDEX]
    return pa.Table.from_arrays(arrays, schema=INDEX)


def sequence_means(values_N: NDArray[Any], positions_B: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of each sequence, 0 without positions; summed in float64, so the mean of a constant is that constant."""
    owner_N = np.repeat(np.arange(len(positions_B)), positions_B)
    sum_B = np.bincount(owner_N, weights=values_N, minlength=len(positions_B))
    mean_B: NDArray[np.float64] = sum_B / np.maximum(positions_B, 1)
    return mean_B


def _agrees(scores: Scores, realised_N: NDArray[Any]) -> NDArray[np.bool_]:
    """True where no head token is likelier than the realised one, as far as the codec tells them apart."""
    owner_E = owners(scores.head_n)
    best_N = np.full(len(scores.head_n), -np.inf, dtype=np.float32)
    np.maximum.at(best_N, owner_E, scores.head_logp)
    hit_E = (scores.head_ids == realised_N[owner_E]) & (scores.head_logp == best_N[owner_E])
    agrees_N = np.zeros(len(scores.head_n), dtype=np.bool_)
    agrees_N[owner_E[hit_E]] = True
    return agrees_N
