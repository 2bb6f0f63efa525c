"""Batches from scored rollouts: which sequences each training step sees, and the teacher's rows of their tokens.

* Each slot of a batch takes a student rollout with probability `student_fraction` (GKD's lambda), and otherwise a
  sequence of the fixed corpus (`pipeline.training.mixing`). The sequences of each kind are visited in epochs of
  shuffled prompts, window by window.
* Random choices are keyed by (seed, student, round), so a resumed run sees the same batches.
* Every loss position has its teacher row: a pool checks that scores and rollouts hold the same tokens.
* The advantage of a rollout is its reward minus the mean reward of the other completions of the same prompt by the same
  policy (leave-one-out; Kool et al., "Buy 4 REINFORCE samples, get a baseline for free!", 2019). This baseline does not
  depend on the completion, so the policy gradient is unbiased. The mean over all n completions, as in GRPO, would
  multiply the gradient by 1 - 1 / n.
* Memory: the scores of the windows in use, about 200 bytes per position. `python -m bench.store.reading` measures the
  speed.

The arrays of a batch are numpy arrays. Array suffixes: see `pipeline.core.types`.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import derive_seed
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Floats, Rollout
from pipeline.losses.batch import Batch
from pipeline.runtime.config import Fraction, Positive
from pipeline.runtime.errors import DataError, ParameterError, StoreError
from pipeline.store.segment_reader import Segment
from pipeline.store.windows import ScoreReader, WindowReader
from pipeline.training.collate import CompletionArrays, collate
from pipeline.training.mixing import CorpusWeights, Ramp, corpus_shares, draw_kinds, fraction_at
from pipeline.training.temperature import TemperedRows, at_temperature, concatenate_rows

T = TypeVar("T")
_STD_FLOOR = 1e-4  # added to standard deviations as in TRL, so that tiny differences of rewards stay small


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParams:
    """The sequences that one optimizer step sees."""

    batch_size: Positive
    """Sequences in one optimizer step."""
    micro_batch_size: Positive
    """Sequences in one forward and backward pass; changes memory and speed, not the result."""
    student_fraction: Fraction | Ramp
    """Probability that a slot takes a student rollout (GKD's lambda): a number, or {start, end, steps}."""
    corpus_weights: CorpusWeights | None
    """Relative frequencies of the sources of the fixed corpus; null: every sequence has the same probability."""
    shuffle_window: Positive
    """Sequences decoded and shuffled together; bounds memory, about 200 bytes per position."""
    scale_rewards: Literal["none", "group"]
    """group: divide a prompt's advantages by the standard deviation of its rewards, as in GRPO; none is unbiased."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """B rollouts and the reader of their scores; row b is the same sequence in both."""

    rollouts: Sequence[Rollout]
    completions: Sequence[CompletionArrays]  # of the rollouts
    scores: ScoreReader
    window_B: NDArray[np.int64]  # the number of the window that holds each sequence
    advantage_B: Floats


Pick: TypeAlias = tuple[Pool, int]  # a sequence, as its pool and its row in the pool


def open_pool(rollouts: Sequence[Rollout], segment: Segment, p: BatchParams) -> Pool:
    """Return a pool of rollouts and their scores.

    Raises:
        StoreError: if the segment does not hold exactly the tokens of the rollouts.
    """
    if len(rollouts) != len(segment):
        raise _mismatch(segment, f"scores for {len(rollouts)} rollouts (coverage 100 %)", f"{len(segment)}")
    if (row := segment.differs_from(rollouts)) is not None:
        raise _mismatch(segment, f"the tokens of {rollouts[row].rollout_id}", "other tokens in the segment")
    rows_B = segment.index["positions"].to_numpy()
    tokens_B = [rollout.positions for rollout in rollouts]
    if rows_B.tolist() != tokens_B:
        row = int(np.flatnonzero(rows_B != tokens_B)[0])
        raise _mismatch(segment, f"{tokens_B[row]} rows for {rollouts[row].rollout_id}", f"{rows_B[row]}")
    return make_pool(rollouts, segment, p)


def make_pool(rollouts: Sequence[Rollout], source: ScoreReader, p: BatchParams) -> Pool:
    """Return a pool of rollouts and a reader of their scores, without checking that they match.

    The completions of a prompt are in the same window.
    """
    groups = _grouped(range(len(rollouts)), lambda row: rollouts[row].prompt_id)
    window_B = np.zeros(len(rollouts), dtype=np.int64)
    for rows, first in zip(groups, itertools.accumulate(map(len, groups), initial=0), strict=False):
        window_B[rows] = first // p.shuffle_window
    arrays, advantage_B = [CompletionArrays.of(rollout) for rollout in rollouts], advantages(rollouts, p)
    return Pool(rollouts=rollouts, completions=arrays, scores=source, window_B=window_B, advantage_B=advantage_B)


def advantages(rollouts: Sequence[Rollout], p: BatchParams) -> Floats:
    """Return the advantage of each rollout [B].

    Rollouts without a reward, and those whose prompt has no other completion by the same policy, have the advantage 0.

    Raises:
        DataError: A reward is NaN or infinite.
    """
    rewarded = [
        row for row, rollout in enumerate(rollouts) if rollout.reward is not None and rollout.source == "student"
    ]
    for rollout in (rollouts[row] for row in rewarded):
        if not math.isfinite(rollout.reward or 0.0):
            where, remedy = f"reward of {rollout.rollout_id}", "mend the reward, then delete its rollouts file"
            raise DataError(where, expected="a finite number", got=rollout.reward, remedy=remedy)
    advantage_B = np.zeros(len(rollouts), np.float32)
    for rows in _grouped(rewarded, lambda row: (rollouts[row].prompt_id, rollouts[row].policy)):
        if len(rows) > 1:
            advantage_B[rows] = _leave_one_out(np.array([rollouts[row].reward for row in rows], np.float64), p)
    return advantage_B


def _leave_one_out(rewards: NDArray[np.float64], p: BatchParams) -> NDArray[np.float64]:
    """Return each reward minus the mean of the other rewards."""
    means_of_others = (rewards.sum() - rewards) / (len(rewards) - 1)
    scale = 1.0 if p.scale_rewards == "none" else rewards.std(ddof=1) + _STD_FLOOR
    difference: NDArray[np.float64] = (rewards - means_of_others) / scale
    return difference


def _mismatch(segment: Segment, expected: str, got: str) -> StoreError:
    return StoreError(segment.path, expected=expected, got=got, remedy="delete it and run `make repro` to score again")


def plan_steps(
    own: Pool, corpus: Pool, p: BatchParams, *, key: Sequence[object], steps: range, replay: float
) -> list[list[list[Pick]]]:
    """Choose the sequences of every step of a round.

    Args:
        own: the student's rollouts, replayed ones included.
        corpus: the fixed corpus.
        p: the batch parameters.
        key: the parts of the seed.
        steps: the global numbers of the steps.
        replay: the probability that a student's slot takes a replayed rollout.

    Returns:
        For each step its micro-batches of sequences.

    Raises:
        ParameterError: if slots belong to a kind of sequences of which there are none.
    """
    kinds = _kinds(own, corpus, p)
    fraction_N = np.repeat([fraction_at(p.student_fraction, step) for step in steps], p.batch_size)
    shares = {"own": fraction_N * (1 - replay), "replay": fraction_N * replay}
    counts = {name: len(picks) for name, picks in kinds.items()}
    corpus_share = (p.corpus_weights and corpus_shares(p.corpus_weights, counts)) or {"corpus": 1.0}
    shares |= {name: (1 - fraction_N) * share for name, share in corpus_share.items()}
    if any(share_N.any() and not kinds[name] for name, share_N in shares.items()):
        where, expected = "batches.student_fraction", "1 without a corpus, 0 without rollouts"
        remedy = "change it, or corpus.references, corpus.generations and batches.corpus_weights"
        raise ParameterError(where, expected=expected, got=p.student_fraction, remedy=remedy)
    walks = [_walk(kinds[name], *key, name) for name in shares]
    shares_NK = np.stack(list(shares.values()), -1)
    uniform_N = np.random.Generator(np.random.Philox(derive_seed(*key, "source"))).random(len(shares_NK))
    sequences = [next(walks[kind]) for kind in draw_kinds(uniform_N, shares_NK).tolist()]
    windows = [sorted(window, key=_by_lengths) for window in _cut(sequences, p.batch_size)]
    return [_cut(window, p.micro_batch_size) for window in windows]


def _kinds(own: Pool, corpus: Pool, p: BatchParams) -> defaultdict[str, list[Pick]]:
    """Return the sequences by kind; without weights all sequences of the fixed corpus are one kind, `corpus`."""
    of_corpus = {} if p.corpus_weights else {"dataset": "corpus", "teacher": "corpus"}
    kind_of = {"student": "own", **of_corpus}
    kinds = defaultdict(list)
    for pool in (own, corpus):
        for row, rollout in enumerate(pool.rollouts):
            kinds[kind_of.get(rollout.source, rollout.source)].append((pool, row))
    return kinds


def _walk(picks: Sequence[Pick], *key: object) -> Iterator[Pick]:
    """Yield the sequences forever, in epochs of prompts in random order.

    The completions of a prompt follow each other. All prompts are shuffled; windows are visited in the order of their
    first prompts, and the prompts of a window in the order of the shuffle. With one window this is the shuffle itself.
    """
    prompts = _grouped(picks, lambda pick: (id(pick[0]), pick[0].rollouts[pick[1]].prompt_id))
    window_G = [(id(pool), int(pool.window_B[row])) for (pool, row), *_ in prompts]
    for epoch in itertools.count():
        order = np.random.Generator(np.random.Philox(derive_seed(*key, epoch))).permutation(len(prompts)).tolist()
        turns = {window: turn for turn, window in enumerate(dict.fromkeys(window_G[prompt] for prompt in order))}
        for prompt in sorted(order, key=lambda prompt: turns[window_G[prompt]]):
            yield from prompts[prompt]


def _by_lengths(pick: Pick) -> tuple[int, str, int]:
    """Return a sort key that keeps padding small and the completions of a prompt together."""
    rollout = pick[0].rollouts[pick[1]]
    return len(rollout.prompt_ids), rollout.prompt_id, len(rollout.completion_ids)


def _grouped(items: Iterable[T], key: Callable[[T], object]) -> list[list[T]]:
    """Return the items with equal keys together, in the order of the first item of each key."""
    groups: dict[object, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _cut(sequences: list[Pick], size: int) -> list[list[Pick]]:
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def planned_tokens(planned: Sequence[Sequence[Sequence[Pick]]]) -> int:
    """Return the number of tokens that the student processes; a prompt counts once per micro-batch."""
    return sum(tokens_to_read([pool.rollouts[row] for pool, row in picks]) for step in planned for picks in step)


def iter_batches(
    planned: Sequence[Sequence[Sequence[Pick]]], *, temperature: float, column: int
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each planned step.

    Args:
        planned: the sequences, from `plan_steps`.
        temperature: the temperature of the teacher's rows.
        column: the column of this temperature in the scores.
    """
    prepare = partial(at_temperature, temperature=temperature, column=column)
    readers: dict[Pool, WindowReader[TemperedRows]] = {}
    for step in planned:
        # A reader holds the windows of this step and drops all others.
        for of_pool in _grouped(itertools.chain.from_iterable(step), lambda pick: id(pick[0])):
            pool, _ = of_pool[0]
            reader = readers.setdefault(pool, WindowReader(pool.scores, pool.window_B, prepare))
            reader.hold([row for _, row in of_pool])
        yield [_collate_picks(picks, readers) for picks in step]


def _collate_picks(picks: Sequence[Pick], readers: Mapping[Pool, WindowReader[TemperedRows]]) -> Batch:
    tempered = concatenate_rows([readers[pool].place(row) for pool, row in picks])
    rollouts, completions = [pool.rollouts[row] for pool, row in picks], [pool.completions[row] for pool, row in picks]
    advantage_B = np.array([pool.advantage_B[row] for pool, row in picks], np.float32)
    return collate(rollouts, completions, tempered, advantage_B)
