"""The sequences of each step, and the teacher's row of every loss position."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.collation import collate_scores
from pipeline.core.hashing import derive_seed
from pipeline.core.types import Entries, Rollout, ScoredSequence, Scores, Source
from pipeline.losses.batch import Batch
from pipeline.runtime.errors import ParameterError, StoreError
from pipeline.store.ragged import join_scores
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.store.windows import Stretch, WindowReader, stretches
from pipeline.training.batches import Pool, iter_batches, make_pool, open_pool, plan_steps, planned_tokens
from pipeline.training.mixing import CorpusWeights, Ramp
from pipeline.training.temperature import at_temperature, concatenate_rows
from tests import factories
from tests.factories import batch_params
from tests.scores import InMemory, arrays_of, header, with_stats

Rows = Sequence[dict[int, float]]  # one dictionary a position: token id to probability


def rollout(name: str, prompt: Sequence[int], completion: Sequence[int], *, source: Source = "student") -> Rollout:
    """Return a rollout of its own prompt whose log-probs fall by 0.5 per token."""
    behaviour_logp = [] if source == "dataset" else [-0.5 * (t + 1) for t in range(len(completion))]
    changes: dict[str, Any] = {"prompt_id": name, "policy": "", "behaviour_logp": behaviour_logp}
    return factories.rollout(name, completion, prompt=prompt, source=source, **changes)


def scores(head: Rows, *, union: Rows = (), draw: Rows = (), tail: Any = None, lse: Any = None) -> Scores:
    """Return scores with these entries; the tail is the remaining mass unless `tail` is given."""

    def entries(rows: Rows) -> Entries:
        rows = rows or [{}] * len(head)
        return Entries(
            ids=np.array([token for row in rows for token in row], np.int32),
            logp=np.log(np.array([p for row in rows for p in row.values()], np.float32)),
            counts=np.array([len(row) for row in rows], np.int32),
        )

    left = np.array([1 - sum(row.values()) for row in head], np.float32)[:, None]
    taken = np.array([sum(row.values()) for row in union or [{}] * len(head)], np.float32)[:, None]
    tail_NH = left if tail is None else np.array(tail, np.float32)
    zero_N = np.zeros(len(head), np.float32)
    alone = Scores.of_top(entries(head), tail_NH=tail_NH, entropy_NH=np.zeros_like(tail_NH), token_logp_N=zero_N)
    lse_NH = np.zeros_like(tail_NH) if lse is None else np.array(lse, np.float32)
    stats = replace(alone.stats, student_tail_NH=tail_NH - taken, lse_NH=lse_NH)
    return Scores(top=alone.top, tail_samples=entries(draw), student=entries(union), stats=stats)


def pool(count: int, source: Source, *, longest: int = 6) -> Pool:
    """Return a pool: sequence i of source s has the completion [code(s, i), t...], and a row stores its own token."""
    rng = np.random.default_rng(count)
    base = {"student": 1000, "dataset": 2000, "teacher": 3000, "replay": 4000}[source]
    rollouts = [
        rollout(f"{source}{i}", [1], [base + i, *range(int(rng.integers(0, longest)))], source=source)
        for i in range(count)
    ]
    return pool_of(rollouts, [scores([{token: 0.5} for token in rollout_.completion_ids]) for rollout_ in rollouts])


def pool_of(rollouts: Sequence[Rollout], rows: Sequence[Scores], *, window: int = 100) -> Pool:
    """Return a pool of rollouts with scores in memory."""
    return make_pool(rollouts, InMemory(scores=rows), batch_params(shuffle_window=window))


def collated(pairs: Sequence[tuple[Rollout, Scores]], *, temperature: float, column: int) -> Batch:
    """Return sequences and their scores as one batch."""
    whole = join_scores([rows for _, rows in pairs], pairs[0][1].stats.tail_NH.shape[1])
    return collate_scores([rollout_ for rollout_, _ in pairs], whole, temperature=temperature, column=column)


NONE = pool_of([], [])


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
    p = batch_params(batch_size=size, micro_batch_size=micro, student_fraction=fraction)
    start = steps.start if resume_at is None else resume_at
    planned = plan_steps(own, corpus, p, key=key, steps=steps, replay=0.0)[start - steps.start :]
    return list(iter_batches(planned, temperature=1.0, column=0))


def names(windows: Sequence[Sequence[Batch]]) -> list[list[int]]:
    """Return the first token of every sequence, by step."""
    return [[ids[0] for batch in window for ids in batch.completion_ids] for window in windows]


# Pools


def written(path: Path, *rollouts: Rollout) -> Segment:
    """Write and open a segment with these rollouts and one top token per position."""
    sequences = [
        ScoredSequence(rollout=rollout_, scores=scores([{token: 0.5} for token in rollout_.completion_ids]))
        for rollout_ in rollouts
    ]
    write_segment(path / "segment", sequences, header(100), np.arange(100))
    return Segment.open(path / "segment")


def test_a_pool_pairs_rollouts_with_their_scores(tmp_path: Path) -> None:
    rollouts = [rollout("a", [1, 2], [3, 4]), rollout("b", [1], [5])]
    opened = open_pool(rollouts, written(tmp_path, *rollouts), batch_params())
    batch = next(iter_batches([[[(opened, 1), (opened, 0)]]], temperature=1.0, column=0))[0]
    assert batch.completion_ids == [[5], [3, 4]]
    assert batch.rows.ids_NK.tolist() == [[5], [3], [4]]


@pytest.mark.parametrize("prompt, completion", [([1, 2], [3, 5]), ([1, 9], [3, 4]), ([1, 2, 3], [4])])
def test_other_tokens_in_the_store_are_an_error(tmp_path: Path, prompt: list[int], completion: list[int]) -> None:
    same, other = rollout("same", [1], [3]), rollout("a", [1, 2], [3, 4])
    segment = written(tmp_path, same, rollout("a", prompt, completion))
    with pytest.raises(StoreError, match="segment: expected the tokens of a, got other tokens"):
        open_pool([same, other], segment, batch_params())


def test_a_missing_row_is_an_error(tmp_path: Path) -> None:
    scored = rollout("a", [1, 2], [3, 4])
    segment = written(tmp_path, scored)
    shorter = segment.index.set_column(segment.index.column_names.index("positions"), "positions", [[1]])
    with pytest.raises(StoreError, match="segment: expected 2 rows for a, got 1"):
        open_pool([scored], replace(segment, index=shorter), batch_params())


@pytest.mark.parametrize("count", [1, 3])
def test_a_missing_sequence_is_an_error(tmp_path: Path, count: int) -> None:
    rollouts = [rollout(str(token), [1], [token]) for token in range(3, 6)]
    with pytest.raises(StoreError, match=r"segment: expected scores for 2 rollouts \(coverage 100 %\), got [13];"):
        open_pool(rollouts[:2], written(tmp_path, *rollouts[:count]), batch_params())


# Choice of sequences


@pytest.mark.parametrize("fraction, expected", [(0.0, 0.0), (1.0, 1.0)])
def test_a_fraction_of_none_or_all_is_exact(fraction: float, expected: float) -> None:
    windows = batches(pool(5, "student"), pool(7, "dataset"), fraction=fraction)
    assert {float(flag) for window in windows for batch in window for flag in batch.on_policy_B} == {expected}


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_fraction_is_the_share_of_own_rollouts(fraction: float) -> None:
    windows = batches(pool(5, "student"), pool(7, "dataset"), fraction=fraction, steps=range(250))
    own = np.concatenate([batch.on_policy_B for window in windows for batch in window])
    assert len(own) == 2000
    assert abs(own.mean() - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / len(own))


def test_an_empty_pool_is_fine_if_no_slot_needs_it() -> None:
    assert len(batches(pool(3, "student"), NONE, fraction=1.0)) == 10
    assert len(batches(NONE, pool(3, "dataset"), fraction=0.0)) == 10


@pytest.mark.parametrize("own, corpus, fraction", [(3, 0, 0.99), (0, 3, 0.01), (0, 0, 1.0), (0, 0, 0.0)])
def test_an_empty_pool_is_an_error_if_a_slot_needs_it(own: int, corpus: int, fraction: float) -> None:
    with pytest.raises(ParameterError, match=r"batches\.student_fraction: expected 1 without"):
        batches(pool(own, "student"), pool(corpus, "dataset"), fraction=fraction)


def both(*pools: Pool) -> Pool:
    """Return one pool with the sequences of several pools."""
    rollouts = [rollout_ for pool_ in pools for rollout_ in pool_.rollouts]
    return pool_of(rollouts, [scores([{token: 0.5} for token in rollout_.completion_ids]) for rollout_ in rollouts])


def shares(own: Pool, corpus: Pool, *, steps: range, replay: float = 0.0, **mix: Any) -> dict[str, float]:
    """Return the share of slots of each source."""
    planned = plan_steps(own, corpus, batch_params(**mix), key=(0,), steps=steps, replay=replay)
    taken = [from_.rollouts[row].source for step in planned for micro in step for from_, row in micro]
    return {source: taken.count(source) / len(taken) for source in set(taken)}


def test_replay_takes_its_share_of_the_students_slots_only() -> None:
    own, corpus = both(pool(5, "student"), pool(9, "replay")), pool(7, "dataset")
    measured = shares(own, corpus, steps=range(500), student_fraction=0.8, replay=0.75)
    assert measured == pytest.approx({"student": 0.2, "replay": 0.6, "dataset": 0.2}, abs=0.03)
    assert set(shares(own, corpus, steps=range(50), student_fraction=0.8)) == {"student", "dataset"}


def test_sources_of_the_corpus_are_shared_by_weight_or_by_number() -> None:
    own, corpus = pool(5, "student"), both(pool(9, "dataset"), pool(3, "teacher"))
    weights = CorpusWeights(dataset=1.0, teacher=4.0)
    weighted = shares(own, corpus, steps=range(500), student_fraction=0.0, corpus_weights=weights)
    assert weighted == pytest.approx({"dataset": 1 / 5, "teacher": 4 / 5}, abs=0.03)
    pooled = shares(own, corpus, steps=range(30), student_fraction=0.0)
    assert pooled == pytest.approx({"dataset": 9 / 12, "teacher": 3 / 12})
    without = shares(pool(5, "student"), corpus, steps=range(500), student_fraction=0.0, corpus_weights=weights)
    assert without == pytest.approx({"dataset": 1 / 5, "teacher": 4 / 5}, abs=0.03)


def test_a_fraction_is_a_function_of_the_global_step() -> None:
    own, corpus = pool(5, "student"), pool(7, "dataset")
    p = batch_params(batch_size=400, student_fraction=Ramp(start=0.0, end=1.0, steps=8))
    planned = plan_steps(own, corpus, p, key=(0,), steps=range(4, 12), replay=0.0)
    fractions = [np.mean([from_ is own for micro in step for from_, _ in micro]) for step in planned]
    assert fractions == pytest.approx([0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1], abs=0.1)
    assert fractions[4:] == [1, 1, 1, 1]


@pytest.mark.parametrize("replay", [0.0, 0.75])
def test_fourfold_use_trains_four_tokens_for_each_that_the_teacher_scored(replay: float) -> None:
    """Several passes over one round's rollouts, or one pass in each of four rounds."""
    fresh, earlier = pool(20, "student"), pool(60, "replay")
    planned = plan_steps(
        both(fresh, earlier), NONE, batch_params(student_fraction=1.0), key=(0,), steps=range(1000), replay=replay
    )
    trained = [len(from_.rollouts[row].completion_ids) for step in planned[:10] for m in step for from_, row in m]
    assert len(trained) == 4 * 20
    mean = np.mean([len(from_.rollouts[row].completion_ids) for step in planned for m in step for from_, row in m])
    scored = sum(len(rollout_.completion_ids) for rollout_ in fresh.rollouts)
    assert scored / (80 * mean) == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize("resume_at", [4, 7, 13])
def test_the_choice_does_not_depend_on_where_one_resumes(resume_at: int) -> None:
    own, corpus = pool(5, "student"), pool(7, "dataset")
    whole = batches(own, corpus, fraction=0.5, steps=range(4, 14))
    rest = batches(own, corpus, fraction=0.5, steps=range(4, 14), resume_at=resume_at)
    assert names(rest) == names(whole)[resume_at - 4 :]
    assert len(rest) == 14 - resume_at


def test_every_sequence_is_used_once_per_epoch_in_a_new_order() -> None:
    windows = batches(pool(20, "student"), NONE, fraction=1.0, size=5, steps=range(12))
    epochs = [list(itertools.chain(*names(windows[start : start + 4]))) for start in (0, 4, 8)]
    assert all(sorted(epoch) == list(range(1000, 1020)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_choice_depends_on_the_key() -> None:
    own, corpus = pool(9, "student"), pool(9, "dataset")
    runs = [names(batches(own, corpus, fraction=0.5, key=key)) for key in [(0, "s"), (0, "s"), (1, "s"), (0, "m")]]
    assert runs[0] == runs[1]
    assert runs[0] not in runs[2:]


@pytest.mark.parametrize("micro", [1, 3, 8, 50])
def test_micro_batches_only_cut_the_window(micro: int) -> None:
    own, corpus = pool(5, "student"), pool(7, "dataset")
    whole = batches(own, corpus, fraction=0.5, micro=8)
    cut = batches(own, corpus, fraction=0.5, micro=micro)
    assert names(cut) == names(whole)
    assert all(len(window) == math.ceil(8 / micro) for window in cut)
    assert all(len(batch.completion_ids) <= micro for window in cut for batch in window)
    for window, once in zip(cut, whole, strict=True):
        assert (
            np.concatenate([batch.rows.token_ids_N for batch in window]).tolist() == once[0].rows.token_ids_N.tolist()
        )


def test_completions_of_a_prompt_are_neighbours_and_process_it_once() -> None:
    rollouts = [
        replace(rollout(f"{prompt}/{i}", [prompt] * 5, [10 * prompt + i, 9]), prompt_id=f"{prompt}")
        for prompt in (1, 2, 3, 4)
        for i in range(4)
    ]
    own = pool_of(rollouts, [scores([{token: 0.5} for token in rollout_.completion_ids]) for rollout_ in rollouts])
    p = batch_params(batch_size=8, micro_batch_size=4, student_fraction=1.0)
    planned = plan_steps(own, NONE, p, key=(0,), steps=range(6), replay=0.0)
    assert all(len({own.rollouts[row].prompt_id for _, row in micro}) == 1 for step in planned for micro in step)
    assert planned_tokens(planned) == 6 * (2 * 5 + 8 * 2)
    steps = [[own.rollouts[row].rollout_id for micro in step for _, row in micro] for step in planned]
    epochs = [steps[at] + steps[at + 1] for at in (0, 2, 4)]
    assert all(sorted(epoch) == sorted(rollout_.rollout_id for rollout_ in rollouts) for epoch in epochs)


# Windows


def rows_of(own: Pool, *, steps: int, size: int = 1) -> list[int]:
    """Return the rows that a walk over one pool takes, in order."""
    p = batch_params(batch_size=size, micro_batch_size=1, student_fraction=1.0)
    planned = plan_steps(own, NONE, p, key=(7,), steps=range(steps), replay=0.0)
    return [row for step in planned for micro in step for _, row in micro]


@pytest.mark.parametrize("window", [8, 100])
def test_with_one_window_the_order_is_a_shuffle_of_all_prompts(window: int) -> None:
    own = pool_of(pool(8, "student").rollouts, [], window=window)
    epochs = [np.random.Generator(np.random.Philox(derive_seed(7, "own", epoch))).permutation(8) for epoch in range(2)]
    assert rows_of(own, steps=16) == np.concatenate(epochs).tolist()


def prompts_of(*names: str) -> list[Rollout]:
    """Return one rollout for each name; equal names have the same prompt."""
    return [replace(rollout(f"{name}{at}", [1], [at]), prompt_id=name) for at, name in enumerate(names)]


def test_windows_follow_each_other_and_prompts_stay_whole() -> None:
    own = pool_of(prompts_of(*"abbcdaeeffgghhh"), [], window=4)
    windows = [{0, 1, 2, 5}, {3, 4, 6, 7}, {8, 9, 10, 11}, {12, 13, 14}]
    orders = []
    for epoch in range(20):
        rows = rows_of(own, steps=15 * (epoch + 1))[15 * epoch :]
        of_row = [next(at for at, window in enumerate(windows) if row in window) for row in rows]
        orders.append(list(dict.fromkeys(of_row)))
        assert sorted(rows) == list(range(15))
        assert of_row == [at for at in orders[-1] for _ in windows[at]]
        assert all(abs(rows.index(row) - rows.index(other)) == 1 for row, other in [(0, 5), (1, 2), (6, 7), (10, 11)])
    assert {order[0] for order in orders} == {0, 1, 2, 3}


def test_each_window_is_decoded_once_per_epoch_and_released(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    whole = InMemory.read_stretches

    def watched(self: InMemory, start: int, stop: int) -> list[Stretch[Scores]]:
        read.append((start, stop))
        return whole(self, start, stop)

    monkeypatch.setattr(InMemory, "read_stretches", watched)
    own = pool_of(prompts_of(*map(str, range(12))), [scores([{token: 0.5}]) for token in range(12)], window=4)
    for corpus, fraction in ((NONE, 1.0), (pool(5, "dataset"), 0.3)):
        steps = batches(own, corpus, fraction=fraction, size=1, steps=range(12 if fraction == 1 else 30))
        assert len(steps) in (12, 30)
        spans = [span for span in read if span[1] - span[0] == 4]
        assert sorted(spans[:3]) == [(0, 4), (4, 8), (8, 12)]
        assert len(spans) == 3
        assert all(
            batch.rows.ids_NK.tolist() == [[batch.completion_ids[0][0]]] for (batch,) in steps if batch.on_policy_B
        )
        read.clear()


def test_a_reader_holds_only_the_windows_of_the_last_rows() -> None:
    source = InMemory(scores=[scores([{token: 0.5}]) for token in range(6)])
    reader = WindowReader(source, np.arange(6) // 2, partial(at_temperature, temperature=1.0, column=0))
    reader.hold([0, 3])
    assert [reader.place(row)[1] for row in (0, 1, 2, 3)] == [0, 1, 2, 3]
    reader.hold([3, 2])
    with pytest.raises(KeyError):
        reader.place(0)
    assert concatenate_rows([reader.place(3), reader.place(2)]).top[0].tolist() == [3, 2]


def test_distant_rows_are_read_separately() -> None:
    assert stretches([]) == []
    assert stretches([40, 3, 19, 4]) == [range(3, 20), range(40, 41)]


# Rows


@st.composite
def ragged(draw: st.DrawFn) -> list[tuple[Rollout, Scores]]:
    """Draw scored sequences of every shape, with exact and rounded masses at two temperatures."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = []
    for at, length in enumerate(draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))):
        ids = [rng.permutation(30) for _ in range(length)]
        heads = [{int(token): float(rng.random()) / 9 for token in row[: rng.integers(1, 9)]} for row in ids]
        unions = [{int(token): float(rng.random()) / 30 for token in row[9 : 9 + rng.integers(0, 4)]} for row in ids]
        draws = [{int(token): float(rng.random()) / 30 for token in row[9 : 9 + rng.integers(0, 7)]} for row in ids]
        tail = rng.random((length, 2)) * rng.integers(0, 2, (length, 1))
        lse = np.stack([np.zeros(length), rng.normal(size=length)], 1)
        rows = scores(heads, union=unions, draw=draws, tail=tail.reshape(length, 2), lse=lse)
        rows = with_stats(rows, student_tail_NH=(tail * rng.random()).astype(np.float32).reshape(length, 2))
        source: Source = ("student", "dataset", "teacher")[at % 3]  # type: ignore[assignment]
        pairs.append((rollout(str(at), [1], rng.integers(0, 9, length).tolist(), source=source), rows))
    return pairs


def laid_out(pairs: Sequence[tuple[Rollout, Scores]], temperature: float, column: int) -> dict[str, Any]:
    """Return the teacher's rows of a batch, computed entry by entry."""
    cut = [(rows, *spans) for _, rows in pairs for spans in positions(rows)]
    width_head, width_union, width_draw = (
        max((spans[i].stop - spans[i].start for spans in cut), default=0) for i in (2, 3, 4)
    )
    made: dict[str, list[Any]] = {name: [] for name in ("ids", "logp", "tail", "draw_ids", "draw_logp", "weight")}
    for rows, t, head, union, drawn in cut:
        lse, floor = rows.stats.lse_NH[t, column], math.exp(-20)
        tail = max(rows.stats.student_tail_NH[t, column], floor)
        entries = [(rows.top.ids[head], rows.top.logp[head], width_head)]
        entries += [(rows.student.ids[union], rows.student.logp[union], width_union)]
        logp = [values / temperature - lse for _, values, _ in entries]
        total = sum(np.exp(values.astype(np.float64)).sum() for values in logp) + tail
        pad = [width - len(ids) for ids, _, width in entries]
        first = rows.top.ids[head][0]
        made["ids"].append([token for (ids, *_), n in zip(entries, pad, strict=True) for token in [*ids, *[first] * n]])
        made["logp"].append(
            [value for part, n in zip(logp, pad, strict=True) for value in [*(part - math.log(total)), *[-np.inf] * n]]
        )
        made["tail"].append(tail / total)
        missing, ids = width_draw - (drawn.stop - drawn.start), rows.tail_samples.ids[drawn].tolist()
        share = math.log(max(rows.stats.tail_NH[t, 0], floor) / max(len(ids), 1))
        held = [token in rows.student.ids[union] for token in ids]
        at_t = rows.tail_samples.logp[drawn] / temperature - lse - math.log(total)
        weight = share + at_t - rows.tail_samples.logp[drawn]
        made["draw_ids"].append([*ids, *[0] * missing])
        made["draw_logp"].append([0 if no else value for value, no in zip(at_t, held, strict=True)] + [0] * missing)
        made["weight"].append(
            [-np.inf if no else value for value, no in zip(weight, held, strict=True)] + [-np.inf] * missing
        )
    return made


def positions(rows: Scores) -> Iterator[tuple[int, slice, slice, slice]]:
    """Yield each position with its top tokens, student-support tokens and tail samples."""
    ends = [
        np.cumsum([0, *counts]).tolist() for counts in (rows.top.counts, rows.student.counts, rows.tail_samples.counts)
    ]
    for t in range(len(rows)):
        head, union, drawn = (slice(offsets[t], offsets[t + 1]) for offsets in ends)
        yield t, head, union, drawn


@settings(max_examples=60)
@given(ragged(), st.sampled_from([1.0, 2.0]))
def test_a_batch_equals_its_entries(pairs: list[tuple[Rollout, Scores]], temperature: float) -> None:
    column = 0 if temperature == 1.0 else 1
    batch, expected = collated(pairs, temperature=temperature, column=column), laid_out(pairs, temperature, column)
    positions_N = len(expected["tail"])
    assert batch.rows.ids_NK.tolist() == expected["ids"]
    assert batch.rows.tail_sample_ids_NJ.tolist() == expected["draw_ids"]
    for name, array in (
        ("logp", batch.rows.logp_NK),
        ("draw_logp", batch.rows.tail_sample_logp_NJ),
        ("weight", batch.rows.tail_sample_logweight_NJ),
    ):
        assert array.dtype == np.float32
        assert np.allclose(array, np.array(expected[name]).reshape(array.shape), rtol=1e-5, atol=1e-5)
    assert batch.rows.tail_N == pytest.approx(expected["tail"], rel=1e-5)
    assert batch.rows.has_tail_samples_N.tolist() == [n > 0 for _, rows in pairs for n in rows.tail_samples.counts]
    assert batch.rows.token_ids_N.tolist() == [token for rollout_, _ in pairs for token in rollout_.completion_ids]
    assert len(batch.rows.behaviour_logp_N) == len(batch.rows.token_ids_N) == positions_N
    assert batch.on_policy_B.tolist() == [rollout_.source == "student" for rollout_, _ in pairs]


@settings(max_examples=60)
@given(ragged(), st.sampled_from([(1.0, 0), (2.0, 1)]))
def test_a_row_does_not_depend_on_other_rows(pairs: list[tuple[Rollout, Scores]], at: tuple[float, int]) -> None:
    """Every position is recomputed in float32, whatever windows and batches its sequence is in."""
    temperature, column = at
    many = pool_of([rollout_ for rollout_, _ in pairs], [rows for _, rows in pairs])
    order = np.random.default_rng(len(pairs)).permutation(len(pairs)).tolist()
    batch = next(iter_batches([[[(many, row) for row in order]]], temperature=temperature, column=column))[0]
    cut = [(rows, *spans) for row in order for rows in (pairs[row][1],) for spans in positions(rows)]
    for n, (rows, t, head, union, drawn) in enumerate(cut):
        lse, floor = rows.stats.lse_NH[t, column], np.float32(math.exp(-20))
        logp = [
            values if temperature == 1.0 else values / temperature - lse
            for values in (rows.top.logp[head], rows.student.logp[union])
        ]
        tail = np.maximum(rows.stats.student_tail_NH[t, column], floor)
        sums = [np.add.reduceat(np.exp(values), [0])[0] if len(values) else np.float32(0) for values in logp]
        norm = np.log(sums[0] + sums[1] + tail)
        kept_K = ~np.isneginf(batch.rows.logp_NK[n])
        assert batch.rows.logp_NK[n][kept_K].tolist() == [*(logp[0] - norm), *(logp[1] - norm)]
        assert batch.rows.tail_N[n] == tail / (sums[0] + sums[1] + tail)
        share = np.log(np.maximum(rows.stats.tail_NH[t, 0], floor) / np.float32(max(rows.tail_samples.counts[t], 1)))
        raw = rows.tail_samples.logp[drawn]
        at_t = (raw if temperature == 1.0 else raw / temperature - lse) - norm
        counted = ~np.isin(rows.tail_samples.ids[drawn], rows.student.ids[union])
        weights, expected = batch.rows.tail_sample_logweight_NJ[n][: len(raw)], at_t - raw + share
        assert weights[counted].tolist() == expected[counted].tolist()
        assert np.isneginf(weights[~counted]).all()
        assert batch.rows.tail_sample_logp_NJ[n][: len(raw)].tolist() == np.where(counted, at_t, 0).tolist()


def test_row_t_belongs_to_completion_token_t() -> None:
    """Every row of the pool stores its own token only, so a shift by one would be visible."""
    for window in batches(pool(9, "student"), pool(9, "dataset"), fraction=0.5):
        for batch in window:
            assert batch.rows.token_ids_N.tolist() == list(itertools.chain(*batch.completion_ids))
            assert batch.rows.ids_NK.tolist() == [[token] for token in batch.rows.token_ids_N]


def test_masks_come_from_lengths_and_not_from_ids() -> None:
    """Token 0 is padding inside the model and 2 is pad and eos; both count as tokens of a completion."""
    padded = rollout("a", [1], [2, 0, 2, 2])
    batch = collated([(padded, scores([{token: 0.5} for token in padded.completion_ids]))], temperature=1.0, column=0)
    assert batch.rows.token_ids_N.tolist() == [2, 0, 2, 2]
    assert batch.rows.behaviour_logp_N.tolist() == [-0.5, -1.0, -1.5, -2.0]
    assert batch.rows.logp_NK == pytest.approx(np.log(np.full((4, 1), 0.5)))


def test_padding_repeats_a_stored_id_of_its_row_and_has_no_probability() -> None:
    wide = scores([{5: 0.4, 6: 0.3, 7: 0.1}], union=[{8: 0.05}])
    narrow = scores([{9: 0.9}], union=[{}])
    pairs = [(rollout("a", [1], [5]), wide), (rollout("b", [1], [9]), narrow)]
    batch = collated(pairs, temperature=1.0, column=0)
    assert batch.rows.ids_NK.tolist() == [[5, 6, 7, 8], [9, 9, 9, 9]]
    assert np.exp(batch.rows.logp_NK) == pytest.approx(np.array([[0.4, 0.3, 0.1, 0.05], [0.9, 0, 0, 0]]))
    assert batch.rows.tail_N == pytest.approx([0.15, 0.1])


def test_rows_of_rounded_probabilities_become_distributions() -> None:
    rounded = scores([{5: 0.61, 6: 0.3}], tail=[[0.12]])
    batch = collated([(rollout("a", [1], [5]), rounded)], temperature=1.0, column=0)
    assert np.exp(batch.rows.logp_NK).sum(-1) + batch.rows.tail_N == pytest.approx([1.0])
    assert np.exp(batch.rows.logp_NK)[0] == pytest.approx([0.61 / 1.03, 0.3 / 1.03])


def test_a_tail_that_was_rounded_to_zero_is_positive() -> None:
    batch = collated([(rollout("a", [1], [5]), scores([{5: 1.0}], tail=[[0.0]]))], temperature=1.0, column=0)
    assert batch.rows.tail_N == pytest.approx([math.exp(-20)])


def test_column_and_temperature_select_a_distribution() -> None:
    p_V = np.array([0.5, 0.3, 0.15, 0.05])
    z = (p_V**0.5).sum()
    hot_V = p_V**0.5 / z
    rows = scores([{0: 0.5, 1: 0.3}], tail=[[0.2, hot_V[2:].sum()]], lse=[[0.0, math.log(z)]])
    pair = rollout("a", [1], [0]), rows
    for temperature, column, expected_V in [(1.0, 0, p_V), (2.0, 1, hot_V)]:
        batch = collated([pair], temperature=temperature, column=column)
        assert np.exp(batch.rows.logp_NK)[0] == pytest.approx(expected_V[:2])
        assert batch.rows.tail_N == pytest.approx([expected_V[2:].sum()])


def test_the_weight_of_a_tail_sample() -> None:
    """Two samples of a tail of 0.2 have weight 0.1 each; a sample of a student-support token has weight 0."""
    rows = scores([{0: 0.8}, {0: 0.8}, {0: 0.8}], union=[{}, {3: 0.05}, {}], draw=[{2: 0.1, 3: 0.05}, {3: 0.05}, {}])
    batch = collated([(rollout("a", [1], [0, 0, 0]), rows)], temperature=1.0, column=0)
    assert np.exp(batch.rows.tail_sample_logweight_NJ) == pytest.approx(np.array([[0.1, 0.1], [0, 0], [0, 0]]))
    assert batch.rows.has_tail_samples_N.tolist() == [True, True, False]
    assert batch.rows.tail_sample_ids_NJ[0].tolist() == [2, 3]
    assert np.exp(batch.rows.tail_sample_logp_NJ[0]) == pytest.approx([0.1, 0.05])


def test_only_student_rollouts_have_behaviour_log_probs() -> None:
    """Log-probs of teacher completions do not measure the staleness of student rollouts."""
    pairs = [
        (rollout(source, [1], [5, 5], source=source), scores([{5: 0.5}] * 2))
        for source in ("student", "teacher", "dataset")
    ]
    batch = collated(pairs, temperature=1.0, column=0)
    assert np.isnan(batch.rows.behaviour_logp_N).tolist() == [False] * 2 + [True] * 4
    assert batch.on_policy_B.tolist() == [True, False, False]
    assert batch.rows.on_policy_N.tolist() == [True] * 2 + [False] * 4


def test_replayed_rollouts_have_behaviour_log_probs_and_are_not_on_policy() -> None:
    pairs: list[tuple[Rollout, Scores]] = [
        (rollout("r", [1], [5, 5], source="replay"), scores([{5: 0.5}] * 2)),
        (rollout("p", [1], [5], source="replay"), scores([{5: 0.5}])),
    ]
    batch = collated(pairs, temperature=1.0, column=0)
    assert batch.rows.behaviour_logp_N.tolist() == batch.rows.sampling_logp_N.tolist() == [-0.5, -1.0, -0.5]
    assert not batch.rows.on_policy_N.any()
    assert not batch.on_policy_B.any()


def test_rows_of_a_sequence_do_not_depend_on_its_batch() -> None:
    rollouts = pool(6, "student").rollouts
    pairs = [(rollout_, scores([{token: 0.5} for token in rollout_.completion_ids])) for rollout_ in rollouts]
    together = collated(pairs, temperature=1.0, column=0)
    apart = [collated([scored], temperature=1.0, column=0) for scored in pairs]
    for name in ("token_ids_N", "behaviour_logp_N", "tail_N", "ids_NK", "logp_NK"):
        assert np.array_equal(
            getattr(together.rows, name), np.concatenate([getattr(batch.rows, name) for batch in apart])
        )


def test_collation_does_not_change_the_scores() -> None:
    rows = scores([{0: 0.8}], union=[{3: 0.05}], draw=[{2: 0.1}])
    before = {name: values.copy() for name, values in arrays_of(rows).items()}
    collated([(rollout("a", [1], [0]), rows)], temperature=2.0, column=0)
    after = arrays_of(rows)
    assert all(np.array_equal(values, before[name], equal_nan=True) for name, values in after.items())
