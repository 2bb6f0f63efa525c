"""Who is in a step, and that every loss position meets its own teacher row."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.batches import (
    BatchParams,
    Pool,
    collate,
    iter_batches,
    make_pool,
    plan_steps,
    planned_tokens,
)
from pipeline.errors import ParameterError, StoreError
from pipeline.records import Batch, Rollout, Scores, Source

Entries = Sequence[dict[int, float]]  # one dictionary a position: token id to probability


def rollout(name: str, prompt: Sequence[int], completion: Sequence[int], *, source: Source = "student") -> Rollout:
    return Rollout(
        rollout_id=name,
        prompt_id=name,
        source=source,
        author="",
        prompt_ids=list(prompt),
        completion_ids=list(completion),
        behaviour_logp=[] if source == "dataset" else [-0.5 * (t + 1) for t in range(len(completion))],
        support_ids=[],
        ended=False,
        text="",
    )


def scores(head: Entries, *, union: Entries = (), draw: Entries = (), tail: Any = None, lse: Any = None) -> Scores:
    """Scores with these entries; the tail is what head and union leave unless given [N, H]."""

    def group(name: str, rows: Entries) -> dict[str, Any]:
        rows = rows or [{}] * len(head)
        return {
            f"{name}_ids": np.array([token for row in rows for token in row], np.int32),
            f"{name}_logp": np.log(np.array([p for row in rows for p in row.values()], np.float32)),
            f"{name}_n": np.array([len(row) for row in rows], np.int32),
        }

    left = np.array([[1 - sum(row.values())] for row in head], np.float32)
    taken = np.array([[sum(row.values())] for row in union or [{}] * len(head)], np.float32)
    tail_NH = left if tail is None else np.array(tail, np.float32)
    return Scores(
        **group("head", head),
        **group("union", union),
        **group("draw", draw),
        tail_NH=tail_NH,
        union_tail_NH=tail_NH - taken,
        lse_NH=np.zeros_like(tail_NH) if lse is None else np.array(lse, np.float32),
        token_logp_N=np.zeros(len(head), np.float32),
        entropy_N=np.zeros(len(head), np.float32),
    )


def pool(count: int, source: Source, *, longest: int = 6) -> Pool:
    """Sequence i of source s has the completion [code(s, i), t...] and each row's only entry is its token."""
    rng = np.random.default_rng(count)
    base = {"student": 1000, "dataset": 2000, "teacher": 3000}[source]
    rollouts = [
        rollout(f"{source}{i}", [1], [base + i, *range(int(rng.integers(0, longest)))], source=source)
        for i in range(count)
    ]
    return Pool(rollouts=rollouts, scores=[scores([{token: 0.5} for token in one.completion_ids]) for one in rollouts])


NONE = Pool(rollouts=[], scores=[])


def batches(
    own: Pool,
    corpus: Pool,
    *,
    fraction: float,
    steps: range = range(10),
    resume_at: int | None = None,
    key: Sequence[object] = (0, "s", "r1"),
    size: int = 8,
    micro: int = 3,
) -> list[list[Batch]]:
    p = BatchParams(batch_size=size, micro_batch_size=micro, student_fraction=fraction)
    start = steps.start if resume_at is None else resume_at
    planned = plan_steps(own, corpus, p, key=key, steps=len(steps))[start - steps.start :]
    return list(iter_batches(planned, temperature=1.0, column=0))


def names(windows: Sequence[Sequence[Batch]]) -> list[list[int]]:
    """The first token of every sequence, step by step."""
    return [[ids[0] for batch in window for ids in batch.completion_ids] for window in windows]


# Pools


def stored(*rollouts: Rollout) -> list[tuple[list[int], list[int]]]:
    return [(one.prompt_ids, one.completion_ids) for one in rollouts]


def test_a_pool_pairs_rollouts_with_their_scores() -> None:
    one, rows = rollout("a", [1, 2], [3, 4]), scores([{3: 0.5}, {4: 0.5}])
    found = make_pool([one], stored(one), [rows], where="segment")
    assert (found.rollouts, found.scores) == ([one], [rows])


@pytest.mark.parametrize("prompt, completion", [([1, 2], [3, 5]), ([1, 9], [3, 4]), ([1, 2, 3], [4])])
def test_other_tokens_in_the_store_are_an_error(prompt: list[int], completion: list[int]) -> None:
    one, rows = rollout("a", [1, 2], [3, 4]), scores([{3: 0.5}, {4: 0.5}])
    with pytest.raises(StoreError, match="segment: expected the tokens of a, got other tokens"):
        make_pool([one], [(prompt, completion)], [rows], where="segment")


def test_a_missing_row_is_an_error() -> None:
    one = rollout("a", [1, 2], [3, 4])
    with pytest.raises(StoreError, match="segment: expected 2 rows for a, got 1"):
        make_pool([one], stored(one), [scores([{3: 0.5}])], where="segment")


def test_a_missing_sequence_is_an_error() -> None:
    one, other = rollout("a", [1], [3]), rollout("b", [1], [4])
    with pytest.raises(StoreError, match=r"segment: expected scores for 2 rollouts \(coverage 100 %\), got 1"):
        make_pool([one, other], stored(one), [scores([{3: 0.5}])], where="segment")


# Choice


@pytest.mark.parametrize("fraction, expected", [(0.0, 0.0), (1.0, 1.0)])
def test_a_fraction_of_none_or_all_is_exact(fraction: float, expected: float) -> None:
    windows = batches(pool(5, "student"), pool(7, "dataset"), fraction=fraction)
    assert {float(one) for window in windows for batch in window for one in batch.from_student_B} == {expected}


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_fraction_between_is_the_share_of_own_rollouts(fraction: float) -> None:
    windows = batches(pool(5, "student"), pool(7, "dataset"), fraction=fraction, steps=range(250))
    own = np.concatenate([batch.from_student_B for window in windows for batch in window])
    assert len(own) == 2000
    assert abs(own.mean() - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / len(own))


def test_an_empty_side_is_fine_while_nothing_is_asked_of_it() -> None:
    assert len(batches(pool(3, "student"), NONE, fraction=1.0)) == 10
    assert len(batches(NONE, pool(3, "dataset"), fraction=0.0)) == 10


@pytest.mark.parametrize("own, corpus, fraction", [(3, 0, 0.99), (0, 3, 0.01), (0, 0, 1.0), (0, 0, 0.0)])
def test_an_empty_side_is_an_error_when_it_is_needed(own: int, corpus: int, fraction: float) -> None:
    with pytest.raises(ParameterError, match=r"batches\.student_fraction: expected 1 without"):
        batches(pool(own, "student"), pool(corpus, "dataset"), fraction=fraction)


@pytest.mark.parametrize("resume_at", [4, 7, 13])
def test_the_choice_does_not_depend_on_where_one_resumes(resume_at: int) -> None:
    own, corpus = pool(5, "student"), pool(7, "dataset")
    whole = batches(own, corpus, fraction=0.5, steps=range(4, 14))
    rest = batches(own, corpus, fraction=0.5, steps=range(4, 14), resume_at=resume_at)
    assert names(rest) == names(whole)[resume_at - 4 :]
    assert len(rest) == 14 - resume_at


def test_every_sequence_is_seen_once_an_epoch_in_an_order_that_changes() -> None:
    windows = batches(pool(20, "student"), NONE, fraction=1.0, size=5, steps=range(12))
    epochs = [list(itertools.chain(*names(windows[start : start + 4]))) for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(1000, 1020)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_choice_depends_on_the_key() -> None:
    own, corpus = pool(9, "student"), pool(9, "dataset")
    found = [names(batches(own, corpus, fraction=0.5, key=key)) for key in [(0, "s"), (0, "s"), (1, "s"), (0, "m")]]
    assert found[0] == found[1]
    assert found[0] not in found[2:]


@pytest.mark.parametrize("micro", [1, 3, 8, 50])
def test_micro_batches_only_cut_the_window(micro: int) -> None:
    own, corpus = pool(5, "student"), pool(7, "dataset")
    whole = batches(own, corpus, fraction=0.5, micro=8)
    cut = batches(own, corpus, fraction=0.5, micro=micro)
    assert names(cut) == names(whole)
    assert all(len(window) == math.ceil(8 / micro) for window in cut)
    assert all(len(batch.completion_ids) <= micro for window in cut for batch in window)
    for window, once in zip(cut, whole, strict=True):
        assert np.concatenate([batch.token_ids_N for batch in window]).tolist() == once[0].token_ids_N.tolist()


def test_completions_of_one_prompt_come_together_and_cost_it_once() -> None:
    rollouts = [
        replace(rollout(f"{prompt}/{i}", [prompt] * 5, [10 * prompt + i, 9]), prompt_id=f"{prompt}")
        for prompt in (1, 2, 3, 4)
        for i in range(4)
    ]
    own = Pool(rollouts=rollouts, scores=[scores([{token: 0.5} for token in one.completion_ids]) for one in rollouts])
    p = BatchParams(batch_size=8, micro_batch_size=4, student_fraction=1.0)
    planned = plan_steps(own, NONE, p, key=(0,), steps=6)
    assert all(len({one.prompt_id for one, _ in micro}) == 1 for step in planned for micro in step)
    assert planned_tokens(planned) == 6 * (2 * 5 + 8 * 2)
    steps = [[one.rollout_id for micro in step for one, _ in micro] for step in planned]
    epochs = [steps[at] + steps[at + 1] for at in (0, 2, 4)]
    assert all(sorted(epoch) == sorted(one.rollout_id for one in rollouts) for epoch in epochs)


# Rows


def test_row_t_belongs_to_completion_token_t() -> None:
    """Every row of the pool holds its own token alone, so that a shift by one would show."""
    for window in batches(pool(9, "student"), pool(9, "dataset"), fraction=0.5):
        for batch in window:
            assert batch.token_ids_N.tolist() == list(itertools.chain(*batch.completion_ids))
            assert batch.ids_NK.tolist() == [[token] for token in batch.token_ids_N]


def test_masks_come_from_lengths_and_not_from_ids() -> None:
    """Token 0 pads inside `lm`, 2 is pad and eos: both count wherever a completion holds them."""
    one = rollout("a", [1], [2, 0, 2, 2])
    batch = collate([(one, scores([{token: 0.5} for token in one.completion_ids]))], temperature=1.0, column=0)
    assert batch.token_ids_N.tolist() == [2, 0, 2, 2]
    assert batch.behaviour_logp_N.tolist() == [-0.5, -1.0, -1.5, -2.0]
    assert batch.logp_NK == pytest.approx(np.log(np.full((4, 1), 0.5)))


def test_padding_repeats_a_stored_id_of_its_row_and_has_no_probability() -> None:
    wide = scores([{5: 0.4, 6: 0.3, 7: 0.1}], union=[{8: 0.05}])
    narrow = scores([{9: 0.9}], union=[{}])
    pairs = [(rollout("a", [1], [5]), wide), (rollout("b", [1], [9]), narrow)]
    batch = collate(pairs, temperature=1.0, column=0)
    assert batch.ids_NK.tolist() == [[5, 6, 7, 8], [9, 9, 9, 9]]
    assert np.exp(batch.logp_NK) == pytest.approx(np.array([[0.4, 0.3, 0.1, 0.05], [0.9, 0, 0, 0]]))
    assert batch.tail_N == pytest.approx([0.15, 0.1])


def test_rows_of_rounded_probabilities_become_distributions() -> None:
    rounded = scores([{5: 0.61, 6: 0.3}], tail=[[0.12]])
    batch = collate([(rollout("a", [1], [5]), rounded)], temperature=1.0, column=0)
    assert np.exp(batch.logp_NK).sum(-1) + batch.tail_N == pytest.approx([1.0])
    assert np.exp(batch.logp_NK)[0] == pytest.approx([0.61 / 1.03, 0.3 / 1.03])


def test_a_tail_rounded_to_nothing_is_not_quite_nothing() -> None:
    batch = collate([(rollout("a", [1], [5]), scores([{5: 1.0}], tail=[[0.0]]))], temperature=1.0, column=0)
    assert batch.tail_N == pytest.approx([math.exp(-20)])


def test_the_column_and_the_temperature_choose_one_distribution() -> None:
    p_V = np.array([0.5, 0.3, 0.15, 0.05])
    z = (p_V**0.5).sum()
    hot_V = p_V**0.5 / z
    rows = scores([{0: 0.5, 1: 0.3}], tail=[[0.2, hot_V[2:].sum()]], lse=[[0.0, math.log(z)]])
    pair = rollout("a", [1], [0]), rows
    for temperature, column, expected_V in [(1.0, 0, p_V), (2.0, 1, hot_V)]:
        batch = collate([pair], temperature=temperature, column=column)
        assert np.exp(batch.logp_NK)[0] == pytest.approx(expected_V[:2])
        assert batch.tail_N == pytest.approx([expected_V[2:].sum()])


def test_what_a_draw_counts() -> None:
    """Two draws of a tail of .2 count .1 each; one that the union holds counts nothing, and the row still has draws."""
    rows = scores([{0: 0.8}, {0: 0.8}, {0: 0.8}], union=[{}, {3: 0.05}, {}], draw=[{2: 0.1, 3: 0.05}, {3: 0.05}, {}])
    batch = collate([(rollout("a", [1], [0, 0, 0]), rows)], temperature=1.0, column=0)
    assert np.exp(batch.draw_logweight_NJ) == pytest.approx(np.array([[0.1, 0.1], [0, 0], [0, 0]]))
    assert batch.has_draws_N.tolist() == [True, True, False]
    assert batch.draw_ids_NJ[0].tolist() == [2, 3]
    assert np.exp(batch.draw_logp_NJ[0]) == pytest.approx([0.1, 0.05])


def test_only_students_have_a_behaviour() -> None:
    """A teacher's or a data set's log-probs say nothing about how stale the student's rollouts are."""
    pairs = [
        (rollout(source, [1], [5, 5], source=source), scores([{5: 0.5}] * 2))
        for source in ("student", "teacher", "dataset")
    ]
    batch = collate(pairs, temperature=1.0, column=0)
    assert np.isnan(batch.behaviour_logp_N).tolist() == [False] * 2 + [True] * 4
    assert batch.from_student_B.tolist() == [True, False, False]


def test_sequences_keep_their_rows_in_any_company() -> None:
    own = pool(6, "student")
    pairs = list(zip(own.rollouts, own.scores, strict=True))
    together = collate(pairs, temperature=1.0, column=0)
    apart = [collate([one], temperature=1.0, column=0) for one in pairs]
    for name in ("token_ids_N", "behaviour_logp_N", "tail_N", "ids_NK", "logp_NK"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in apart]))


def test_collating_leaves_the_scores_alone() -> None:
    rows = scores([{0: 0.8}], union=[{3: 0.05}], draw=[{2: 0.1}])
    before = replace(rows, **{name: getattr(rows, name).copy() for name in Scores.__slots__})
    collate([(rollout("a", [1], [0]), rows)], temperature=2.0, column=0)
    assert all(np.array_equal(getattr(rows, name), getattr(before, name)) for name in Scores.__slots__)
