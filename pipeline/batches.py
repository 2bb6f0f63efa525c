"""Scored rollouts to batches: who is in each step, and the teacher's rows as padded arrays.

Each place of a batch takes one of the student's own rollouts with probability `student_fraction` (the lambda of
GKD) and a sequence of the corpus otherwise; both pools are walked in epochs of shuffled prompts. The choice is keyed by
(seed, student, round), so a resumed run sees the same batches. Every loss position must have its teacher row: the pool
checks that scores and rollouts hold the same tokens and that none is missing.

Numpy only; training turns the arrays into tensors.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ParameterError, StoreError
from pipeline.fingerprint import derive_seed
from pipeline.params import Fraction, Positive
from pipeline.records import Batch, Rollout, Scores
from pipeline.segment import Segment
from pipeline.shared import tokens_to_read

Pair: TypeAlias = tuple[Rollout, Scores]

_TAIL_FLOOR = math.exp(-20)  # the codec's smallest probability: a tail it rounds to zero is not exactly none


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParams:
    """What one optimizer step sees."""

    batch_size: Positive
    """Sequences in one optimizer step."""
    micro_batch_size: Positive
    """Sequences in one forward and backward pass; changes memory and speed, not the result. Completions of one prompt
    come side by side, and a pass reads the prompt once."""
    student_fraction: Fraction
    """Chance that a place is taken by the student's own rollout (GKD's lambda); else by the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Rollouts with their scores, aligned."""

    rollouts: Sequence[Rollout]
    scores: Sequence[Scores]


def open_pool(rollouts: Sequence[Rollout], segment: Segment) -> Pool:
    """Rollouts with what a segment holds of them, all of it decoded (about 200 bytes a position)."""
    tokens = [segment.tokens(row) for row in range(len(segment))]
    return make_pool(rollouts, tokens, segment.read(0, len(segment)), where=segment.path)


def make_pool(
    rollouts: Sequence[Rollout],
    stored: Sequence[tuple[list[int], list[int]]],
    scores: Sequence[Scores],
    *,
    where: object,
) -> Pool:
    """Pair rollouts with their stored (prompt ids, completion ids) and scores; a StoreError unless all agree."""
    if len(rollouts) != len(scores):
        raise _mismatch(where, f"scores for {len(rollouts)} rollouts (coverage 100 %)", f"{len(scores)}")
    for rollout, tokens, rows in zip(rollouts, stored, scores, strict=True):
        if tokens != (rollout.prompt_ids, rollout.completion_ids):
            raise _mismatch(where, f"the tokens of {rollout.rollout_id}", "other tokens in the segment")
        if len(rows.head_n) != len(rollout.completion_ids):
            raise _mismatch(
                where, f"{len(rollout.completion_ids)} rows for {rollout.rollout_id}", f"{len(rows.head_n)}"
            )
    return Pool(rollouts=rollouts, scores=scores)


def _mismatch(where: object, expected: str, got: str) -> StoreError:
    return StoreError(where, expected=expected, got=got, remedy="delete it and run `make repro` to score again")


def plan_steps(own: Pool, corpus: Pool, p: BatchParams, *, key: Sequence[object], steps: int) -> list[list[list[Pair]]]:
    """For each step of a round its micro-batches. `key` seeds the choice."""
    if (p.student_fraction < 1 and not corpus.rollouts) or (p.student_fraction > 0 and not own.rollouts):
        raise ParameterError(
            "batches.student_fraction",
            expected="1 without a corpus, 0 without rollouts",
            got=p.student_fraction,
            remedy="change it, or corpus.references and corpus.generations",
        )
    sequences = _choose(own, corpus, p, key, steps * p.batch_size)
    windows = [sorted(one, key=_neighbours) for one in _cut(sequences, p.batch_size)]
    return [_cut(window, p.micro_batch_size) for window in windows]


def planned_tokens(planned: Sequence[Sequence[Sequence[Pair]]]) -> int:
    """Tokens that the student reads in these steps: a prompt once in a micro-batch."""
    return sum(tokens_to_read([rollout for rollout, _ in pairs]) for step in planned for pairs in step)


def iter_batches(
    planned: Sequence[Sequence[Sequence[Pair]]], *, temperature: float, column: int
) -> Iterator[list[Batch]]:
    """The micro-batches of each step; `column` is the temperature's column in the scores."""
    for step in planned:
        yield [collate(pairs, temperature=temperature, column=column) for pairs in step]


def _cut(sequences: list[Pair], size: int) -> list[list[Pair]]:
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def _choose(own: Pool, corpus: Pool, p: BatchParams, key: Sequence[object], count: int) -> list[Pair]:
    """The sequences of a round, in order."""
    is_own = np.random.Generator(np.random.Philox(derive_seed(*key, "source"))).random(count) < p.student_fraction
    walks = {True: _walk(own, *key, "own"), False: _walk(corpus, *key, "corpus")}
    return [next(walks[bool(one)]) for one in is_own]


def _walk(pool: Pool, *key: object) -> Iterator[Pair]:
    """The pool in epochs of prompts in random order, for ever; the completions of one prompt follow each other."""
    prompts: dict[str, list[int]] = {}
    for index, rollout in enumerate(pool.rollouts):
        prompts.setdefault(rollout.prompt_id, []).append(index)
    groups = list(prompts.values())
    for epoch in itertools.count():
        order = np.random.Generator(np.random.Philox(derive_seed(*key, epoch))).permutation(len(groups))
        for index in itertools.chain.from_iterable(groups[place] for place in order):
            yield pool.rollouts[index], pool.scores[index]


def _neighbours(pair: Pair) -> tuple[int, str, int]:
    """Prompts of like length side by side, so that little is padded, and each one's completions together."""
    rollout, _ = pair
    return len(rollout.prompt_ids), rollout.prompt_id, len(rollout.completion_ids)


def collate(pairs: Sequence[Pair], *, temperature: float, column: int) -> Batch:
    """Sequences end to end, their rows padded to the widest, at the given temperature."""
    rollouts, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def flat(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(one, name) for one in scores])

    lse_N1 = flat("lse_NH")[:, column : column + 1]
    head_n, union_n, draw_n = flat("head_n"), flat("union_n"), flat("draw_n")
    head_ids_NK = _padded(flat("head_ids"), head_n, -1)
    head_ids_NK = np.where(head_ids_NK < 0, head_ids_NK[:, :1], head_ids_NK)
    union_ids_NK = _padded(flat("union_ids"), union_n, -1)
    logp_NK = np.concatenate(
        [_padded(flat("head_logp"), head_n, -np.inf), _padded(flat("union_logp"), union_n, -np.inf)], axis=1
    )
    logp_NK = logp_NK / temperature - lse_N1
    tail_N = np.maximum(flat("union_tail_NH")[:, column], _TAIL_FLOOR)
    # one-byte values do not add up to one: make the bucketed row a distribution again
    total_N = np.exp(logp_NK).sum(-1) + tail_N
    draw_ids_NJ = _padded(flat("draw_ids"), draw_n, -1)
    draw_logp_NJ = _padded(flat("draw_logp"), draw_n, 0.0)
    # a draw counts tail / m, reweighted from temperature 1, and nothing if the union holds its token already
    drawn_NJ = (draw_ids_NJ >= 0) & ~(draw_ids_NJ[:, :, None] == union_ids_NK[:, None, :]).any(-1)
    share_N = np.log(np.maximum(flat("tail_NH")[:, 0], _TAIL_FLOOR) / np.maximum(draw_n, 1))
    tempered_NJ = draw_logp_NJ / temperature - lse_N1
    weight_NJ = share_N[:, None] + tempered_NJ - draw_logp_NJ
    return Batch(
        prompt_ids=[one.prompt_ids for one in rollouts],
        completion_ids=[one.completion_ids for one in rollouts],
        from_student_B=np.array([one.source == "student" for one in rollouts]),
        token_ids_N=np.concatenate([np.asarray(one.completion_ids, np.int64) for one in rollouts]),
        behaviour_logp_N=np.concatenate([_behaviour(one) for one in rollouts]),
        ids_NK=np.concatenate([head_ids_NK, np.where(union_ids_NK < 0, head_ids_NK[:, :1], union_ids_NK)], 1).astype(
            np.int64
        ),
        logp_NK=(logp_NK - np.log(total_N)[:, None]).astype(np.float32),
        tail_N=(tail_N / total_N).astype(np.float32),
        draw_ids_NJ=np.maximum(draw_ids_NJ, 0).astype(np.int64),
        draw_logp_NJ=np.where(drawn_NJ, tempered_NJ - np.log(total_N)[:, None], 0.0).astype(np.float32),
        draw_logweight_NJ=np.where(drawn_NJ, weight_NJ - np.log(total_N)[:, None], -np.inf).astype(np.float32),
        has_draws_N=draw_n > 0,
    )


def _padded(flat: NDArray[Any], counts_N: NDArray[Any], fill: float) -> NDArray[Any]:
    """Ragged rows as a rectangle [N, widest]."""
    width = int(counts_N.max(initial=0))
    rows = np.full((len(counts_N), width), fill, dtype=flat.dtype)
    rows[np.arange(width) < counts_N[:, None]] = flat
    return rows


def _behaviour(rollout: Rollout) -> NDArray[np.float32]:
    logp = rollout.behaviour_logp if rollout.source == "student" else [np.nan] * len(rollout.completion_ids)
    return np.asarray(logp, np.float32)
