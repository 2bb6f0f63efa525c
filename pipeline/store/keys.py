"""Scored sequences: what a segment is made of, how a sequence is found again, and its row in the index.

Keys are content: sha256 over token ids, so a sequence has one name in every checkout. The index's statistics are
those of the decoded scores, so that writing what was read gives the same bytes.
"""

import hashlib
from collections.abc import Container, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from pipeline.core.hashing import ids_digest
from pipeline.core.types import Rollout

Key: TypeAlias = tuple[str, str]  # sequence key, support key


def sequence_key(rollout: Rollout) -> str:
    """Hex sha256 of prompt and completion ids; moving a token from one to the other changes it."""
    return hashlib.sha256(ids_digest(rollout.prompt_ids) + ids_digest(rollout.completion_ids)).hexdigest()


def support_key(rollout: Rollout) -> str:
    """Hex sha256 of what the author found likely and drew; one and the same for all rollouts without either."""
    parts = b""
    for lists in (rollout.support_ids, rollout.tail_sample_ids):
        named = lists if any(lists) else []
        parts += ids_digest([len(ids) for ids in named]) + ids_digest([token for ids in named for token in ids])
    offsets = rollout.tail_offset if any(rollout.tail_sample_ids) else []
    return hashlib.sha256(parts + np.asarray(offsets, "<f4").tobytes()).hexdigest()


def score_keys(scorer: str, keys: Iterable[Key]) -> list[bytes]:
    """16 bytes for scorer, sequence and support together: the narrow column that a look-up scans."""
    ours, found = hashlib.blake2b(f"{scorer}/".encode(), digest_size=16), []
    for sequence, support in keys:
        one = ours.copy()  # half the time of starting anew
        one.update(f"{sequence}/{support}".encode())
        found.append(one.digest())
    return found


def key_of(rollout: Rollout) -> Key:
    """What a score is found by, within one scorer: the tokens, and what the author recorded of its distribution."""
    return sequence_key(rollout), support_key(rollout)


def unknown(rollouts: Sequence[Rollout], known: Container[Key]) -> list[Rollout]:
    """Those that the teacher must score, each once, the completions of one prompt side by side."""
    missing = [one for key, one in {key_of(one): one for one in rollouts}.items() if key not in known]
    return sorted(missing, key=lambda one: (len(one.prompt_ids), one.prompt_ids))
