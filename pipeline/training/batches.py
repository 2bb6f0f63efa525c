"""Scored rollouts to batches: who is in each step, and where the teacher's rows come from.

Each place of a batch takes one of the student's own rollouts with probability `student_fraction` (the lambda of
GKD), fresh or replayed, and a sequence of the corpus otherwise (`pipeline.training.mixing`); each kind is walked in
epochs of shuffled prompts, window by window. The choice is keyed by (seed, student, round), so a resumed run sees the
same batches. Every loss position must have its teacher row: the pool checks that scores and rollouts hold the same
tokens and that none is missing.

A rollout's advantage is its reward less the mean reward of the other completions by the same author for the same prompt
(leave-one-out; Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019). The baseline does not depend
on the completion, so the policy gradient stays unbiased; the mean of all, as in GRPO, shrinks it by 1 / n.
Cost: the scores of the windows in hand, about 200 bytes a position. `python -m bench.store.reading` measures the speed.
Not taken: shuffling all sequences and reading one by one (a hundred times slower), decoding the whole segment (memory
grows with the segment).

Numpy only; training turns the arrays into tensors.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Floats, Rollout
from pipeline.losses.batch import Batch
from pipeline.runtime.config import Fraction, Positive
from pipeline.runtime.errors import ParameterError, StoreError
from pipeline.store.segment_reader import Segment
from pipeline.store.windows import ScoreReader, WindowReader
from pipeline.training.collate import CompletionArrays, collate
from pipeline.training.mixing import CorpusWeights, Ramp, corpus_shares, draw_kinds, fraction_at
from pipeline.training.temperature import TemperedRows, at_temperature, concatenate_rows

_STD_FLOOR = 1e-4  # TRL's: rewards that hardly differ are not blown up


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParams:
    """What one optimizer step sees."""

    batch_size: Positive
    """Sequences in one optimizer step."""
    micro_batch_size: Positive
    """Sequences in one forward and backward pass; changes memory and speed, not the result. Completions of one prompt
    come side by side, and a pass reads the prompt once."""
    student_fraction: Fraction | Ramp
    """Chance that a place is taken by the student's own rollout (GKD's lambda), else by the corpus: a number, or
    {start, end, steps} for a straight line over the global steps."""
    corpus_weights: CorpusWeights | None
    """How the corpus' places are shared out among its sources; null: all their sequences alike."""
    shuffle_window: Positive
    """Sequences decoded and shuffled together; bounds memory, about 200 bytes a position. A segment of fewer is
    shuffled as a whole."""
    scale_rewards: Literal["none", "group"]
    """group: divide the advantages of a prompt's completions by the standard deviation of their rewards, as GRPO does,
    which gives every prompt the same weight, however little its completions differ. none is unbiased."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Rollouts, and where their scores are read, row by row the same sequences."""

    rollouts: Sequence[Rollout]
    written: Sequence[CompletionArrays]  # the same as arrays
    scores: ScoreReader
    window_B: NDArray[np.int64]  # which window each sequence belongs to
    advantage_B: Floats


Pick: TypeAlias = tuple[Pool, int]  # a sequence: its pool, and its row there


def open_pool(rollouts: Sequence[Rollout], segment: Segment, p: BatchParams) -> Pool:
    """Rollouts with what a segment holds of them; a StoreError unless it holds exactly their tokens."""
    if len(rollouts) != len(segment):
        raise _mismatch(segment, f"scores for {len(rollouts)} rollouts (coverage 100 %)", f"{len(segment)}")
    if (row := segment.differs_from(rollouts)) is not None:
        raise _mismatch(segment, f"the tokens of {rollouts[row].rollout_id}", "other tokens in the segment")
    rows_B, tokens_B = segment.index["positions"].to_numpy(), [len(one.completion_ids) for one in rollouts]
    if rows_B.tolist() != tokens_B:
        row = int(np.flatnonzero(rows_B != tokens_B)[0])
        raise _mismatch(segment, f"{tokens_B[row]} rows for {rollouts[row].rollout_id}", f"{rows_B[row]}")
    return make_pool(rollouts, segment, p)


def make_pool(rollouts: Sequence[Rollout], source: ScoreReader, p: BatchParams) -> Pool:
    """Rollouts with a source of their scores, cut into windows that hold the completions of a prompt together."""
    groups = _by_prompt(rollouts)
    before = np.cumsum([0, *map(len, groups)])
    window_B = np.zeros(len(rollouts), dtype=np.int64)
    for rows, first in zip(groups, before.tolist(), strict=False):
        window_B[rows] = first // p.shuffle_window
    return Pool(
        rollouts=rollouts,
        written=[CompletionArrays.of(one) for one in rollouts],
        scores=source,
        window_B=window_B,
        advantage_B=advantages(rollouts, p),
    )


def advantages(rollouts: Sequence[Rollout], p: BatchParams) -> Floats:
    """How much better each completion [B] is than the others of its prompt by its author; 0 if it has no reward or
    there are none."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, one in enumerate(rollouts):
        if one.reward is not None and one.source == "student":
            groups[one.prompt_id, one.policy].append(row)
    advantage_B = np.zeros(len(rollouts), np.float32)
    for rows in groups.values():
        if len(rows) > 1:
            advantage_B[rows] = _leave_one_out(np.array([rollouts[row].reward for row in rows], np.float64), p)
    return advantage_B


def _leave_one_out(rewards: NDArray[np.float64], p: BatchParams) -> NDArray[np.float64]:
    others = (rewards.sum() - rewards) / (len(rewards) - 1)
    scale = 1.0 if p.scale_rewards == "none" else rewards.std(ddof=1) + _STD_FLOOR
    difference: NDArray[np.float64] = (rewards - others) / scale
    return difference


def _mismatch(segment: Segment, expected: str, got: str) -> StoreError:
    return StoreError(segment.path, expected=expected, got=got, remedy="delete it and run `make repro` to score again")


def plan_steps(
    own: Pool, corpus: Pool, p: BatchParams, *, key: Sequence[object], steps: range, replay: float
) -> list[list[list[Pick]]]:
    """For each step (global numbers) of a round its micro-batches. `key` seeds the choice, `replay` is the chance that
    a student's place goes to an earlier round's rollout."""
    kinds = _kinds(own, corpus, p)
    fraction_N = np.repeat([fraction_at(p.student_fraction, step) for step in steps], p.batch_size)
    shares = {"own": fraction_N * (1 - replay), "replay": fraction_N * replay}
    shares |= {name: (1 - fraction_N) * share for name, share in _corpus_shares(kinds, p).items()}
    for name, share_N in shares.items():
        if share_N.any() and not kinds[name]:
            raise _missing(p)
    sequences = _choose(kinds, shares, key)
    windows = [sorted(one, key=_neighbours) for one in _cut(sequences, p.batch_size)]
    return [_cut(window, p.micro_batch_size) for window in windows]


def _kinds(own: Pool, corpus: Pool, p: BatchParams) -> dict[str, list[Pick]]:
    """The sequences that may take a place, by kind; without weights all that are not the student's are one."""
    picks = [(pool, row) for pool in (own, corpus) for row in range(len(pool.rollouts))]
    names = {"student": "own", "replay": "replay"}
    kinds: dict[str, list[Pick]] = {"own": [], "replay": [], "corpus": [], "dataset": [], "teacher": []}
    for pool, row in picks:
        source = pool.rollouts[row].source
        kinds[names.get(source) or ("corpus" if p.corpus_weights is None else source)].append((pool, row))
    return kinds


def _corpus_shares(kinds: Mapping[str, Sequence[Pick]], p: BatchParams) -> dict[str, float]:
    """How the corpus' places are shared out."""
    shares = p.corpus_weights and corpus_shares(p.corpus_weights, {name: len(some) for name, some in kinds.items()})
    return shares or {"corpus": 1.0}


def _missing(p: BatchParams) -> ParameterError:
    return ParameterError(
        "batches.student_fraction",
        expected="1 without a corpus, 0 without rollouts",
        got=p.student_fraction,
        remedy="change it, or corpus.references, corpus.generations and batches.corpus_weights",
    )


def planned_tokens(planned: Sequence[Sequence[Sequence[Pick]]]) -> int:
    """Tokens that the student reads in these steps: a prompt once in a micro-batch."""
    return sum(tokens_to_read([pool.rollouts[row] for pool, row in picks]) for step in planned for picks in step)


def iter_batches(
    planned: Sequence[Sequence[Sequence[Pick]]], *, temperature: float, column: int
) -> Iterator[list[Batch]]:
    """The micro-batches of each step; `column` is the temperature's column in the scores."""
    prepare = partial(at_temperature, temperature=temperature, column=column)
    readers: dict[Pool, WindowReader[TemperedRows]] = {}
    for step in planned:
        rows = defaultdict(list)
        for pool, row in itertools.chain.from_iterable(step):
            rows[pool].append(row)
        for pool, wanted in rows.items():
            readers.setdefault(pool, WindowReader(pool.scores, pool.window_B, prepare)).hold(wanted)
        yield [_collate_picks(picks, readers) for picks in step]


def _collate_picks(picks: Sequence[Pick], readers: Mapping[Pool, WindowReader[TemperedRows]]) -> Batch:
    rows = concatenate_rows([readers[pool].place(row) for pool, row in picks])
    rollouts, written = [pool.rollouts[row] for pool, row in picks], [pool.written[row] for pool, row in picks]
    return collate(rollouts, written, rows, np.array([pool.advantage_B[row] for pool, row in picks], np.float32))


def _cut(sequences: list[Pick], size: int) -> list[list[Pick]]:
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def _choose(
    kinds: Mapping[str, list[Pick]], shares: Mapping[str, NDArray[np.float64]], key: Sequence[object]
) -> list[Pick]:
    """The sequences of a round, in order."""
    shares_NK = np.stack(list(shares.values()), -1)
    uniform_N = np.random.Generator(np.random.Philox(derive_seed(*key, "source"))).random(len(shares_NK))
    walks = [_walk(kinds[name], *key, name) for name in shares]
    return [next(walks[kind]) for kind in draw_kinds(uniform_N, shares_NK).tolist()]


def _walk(picks: Sequence[Pick], *key: object) -> Iterator[Pick]:
    """The sequences in epochs of prompts in random order, for ever; the completions of one prompt follow each other.

    Windows come in the order in which a shuffle of all prompts meets them first, and each window's prompts in the
    order of that shuffle: with one window, the shuffle itself.
    """
    groups: dict[tuple[int, str], list[Pick]] = defaultdict(list)
    for pool, row in picks:
        groups[id(pool), pool.rollouts[row].prompt_id].append((pool, row))
    some = list(groups.values())
    window_G = [(id(pool), int(pool.window_B[row])) for (pool, row), *_ in some]
    for epoch in itertools.count():
        order = np.random.Generator(np.random.Philox(derive_seed(*key, epoch))).permutation(len(some)).tolist()
        turn = {window: place for place, window in enumerate(dict.fromkeys(window_G[group] for group in order))}
        for index in sorted(order, key=lambda group: turn[window_G[group]]):
            yield from some[index]


def _by_prompt(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Rows of each prompt, prompts in the order of their first row."""
    rows: dict[str, list[int]] = {}
    for row, rollout in enumerate(rollouts):
        rows.setdefault(rollout.prompt_id, []).append(row)
    return list(rows.values())


def _neighbours(pick: Pick) -> tuple[int, str, int]:
    """Prompts of like length side by side, so that little is padded, and each one's completions together."""
    rollout = pick[0].rollouts[pick[1]]
    return len(rollout.prompt_ids), rollout.prompt_id, len(rollout.completion_ids)
