"""Name a score by its content: keys of a sequence, of what its sampler recorded, and of a stored score.

Keys are sha256 over token ids, so a sequence has the same key in every checkout.
"""

import hashlib
from collections.abc import Container, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from pipeline.core.hashing import ids_digest
from pipeline.core.types import Rollout, TokenSequence

Key: TypeAlias = tuple[str, str]  # sequence key; support key (of what the sampler recorded)


def sequence_key(sequence: TokenSequence) -> str:
    """Return the hex sha256 of prompt and completion ids, and of the mask where a token is not scored.

    A token that moves from the prompt to the completion changes it.
    """
    parts = ids_digest(sequence.prompt_ids) + ids_digest(sequence.completion_ids)
    return hashlib.sha256(parts + (ids_digest(sequence.completion_mask) if sequence.is_masked else b"")).hexdigest()


def support_key(sequence: TokenSequence) -> str:
    """Return the hex sha256 of what the sampler recorded; all sequences without a record have the same key."""
    parts = b""
    for lists in (sequence.support_ids, sequence.tail_sample_ids):
        recorded = lists if any(lists) else []
        parts += ids_digest([len(ids) for ids in recorded]) + ids_digest([token for ids in recorded for token in ids])
    offsets = sequence.tail_offset if any(sequence.tail_sample_ids) else []
    return hashlib.sha256(parts + np.asarray(offsets, "<f4").tobytes()).hexdigest()


def score_keys(scorer: str, keys: Iterable[Key]) -> list[bytes]:
    """Return one key of 16 bytes for scorer, sequence and record: the narrow column that a look-up scans."""
    prefix, digests = hashlib.blake2b(f"{scorer}/".encode(), digest_size=16), []
    for sequence, support in keys:
        state = prefix.copy()  # takes half the time of hashing the prefix again
        state.update(f"{sequence}/{support}".encode())
        digests.append(state.digest())
    return digests


def key_of(sequence: TokenSequence) -> Key:
    """Return the key of a sequence's scores within one scorer: of its tokens, and of what the sampler recorded."""
    return sequence_key(sequence), support_key(sequence)


def unknown(rollouts: Sequence[Rollout], known: Container[Key]) -> list[Rollout]:
    """Return the rollouts that the teacher must score, each once, with the completions of a prompt side by side."""
    by_key = {key_of(rollout): rollout for rollout in rollouts}
    missing = [rollout for key, rollout in by_key.items() if key not in known]
    return sorted(missing, key=lambda rollout: (len(rollout.prompt_ids), rollout.prompt_ids))
