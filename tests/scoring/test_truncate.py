"""What is kept of the teacher's distribution, against the whole of it in float64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.types import Entries, Scores, TokenSequence
from pipeline.models.finite import NoDistributionError
from pipeline.scoring import truncate as topk
from pipeline.scoring.scorer import TruncationParams

VOCAB = 50


def support(**changes: Any) -> TruncationParams:
    settings = {
        "threshold": 0.05,
        "max_entries": 20,
        "samples_per_tail": 10.0,
        "min_tail": 0.02,
        "temperatures": (1.0,),
    }
    return TruncationParams(**(settings | changes))


def truncate(
    logits_TV: Tensor,
    completion_ids: list[int],
    support_ids: list[list[int]],
    p: TruncationParams,
    *,
    seed: int,
    tail_sample_ids: Sequence[list[int]] = (),
    tail_offset: Sequence[float] = (),
) -> Scores:
    """Of a completion without a prompt."""
    tokensequence = TokenSequence(
        prompt_ids=[],
        completion_ids=completion_ids,
        support_ids=support_ids,
        tail_sample_ids=list(tail_sample_ids),
        tail_offset=list(tail_offset),
    )
    return topk.truncate(logits_TV, tokensequence, p, seed=seed)


def teacher(positions: int, *, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, VOCAB, generator=generator) * spread


def probabilities(logits_TV: Tensor, temperature: float = 1.0) -> NDArray[np.float64]:
    p_TV: NDArray[np.float64] = (logits_TV.double() / temperature).softmax(-1).numpy()
    return p_TV


def rows(scores: Scores, group: str) -> list[dict[int, float]]:
    """Ids and log-probs of each position."""
    entries: Entries = getattr(scores, group)
    ends = np.cumsum(entries.counts)
    return [
        dict(zip(entries.ids[end - n : end].tolist(), entries.logp[end - n : end].tolist(), strict=True))
        for end, n in zip(ends, entries.counts, strict=True)
    ]


def drawn(scores: Scores) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(scores.tail_samples.ids, np.cumsum(scores.tail_samples.counts)[:-1])]


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(seed=seeds, spread=st.floats(0.1, 10), threshold=st.sampled_from([0.0, 0.01, 0.2, 0.9]), cap=st.integers(1, 60))
def test_top_tokens_exceed_the_threshold_or_are_the_likeliest_or_sampled(
    seed: int, spread: float, threshold: float, cap: int
) -> None:
    logits_TV = teacher(4, seed=seed, spread=spread)
    tokens = torch.randint(VOCAB, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
    scores = truncate(logits_TV, tokens, [], support(threshold=threshold, max_entries=cap), seed=0)
    p_TV = logits_TV.log_softmax(-1).exp().numpy()  # as rounded there, for those at the threshold
    for p_V, token, head in zip(p_TV, tokens, rows(scores, "top"), strict=True):
        likeliest = np.argsort(-p_V, kind="stable")[:cap]
        assert set(head) == {int(token) for token in likeliest if p_V[token] > threshold} | {int(likeliest[0]), token}
        assert [np.exp(head[token]) for token in head] == pytest.approx([p_V[token] for token in head], rel=1e-5)


@settings(max_examples=60)
@given(
    seed=seeds, lists=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=12, unique=True), min_size=4, max_size=4)
)
def test_student_support_tokens_are_recorded_and_no_top_tokens(seed: int, lists: list[list[int]]) -> None:
    logits_TV, tokens = teacher(4, seed=seed), [1, 2, 3, 4]
    scores = truncate(logits_TV, tokens, lists, support(), seed=0)
    logp_TV = logits_TV.double().log_softmax(-1).numpy()
    alone = truncate(logits_TV, tokens, [], support(), seed=0)
    assert rows(scores, "top") == rows(alone, "top")
    for logp_V, named, head, union in zip(logp_TV, lists, rows(scores, "top"), rows(scores, "student"), strict=True):
        assert set(union) == set(named) - set(head)
        assert list(union.values()) == pytest.approx([logp_V[token] for token in union], abs=1e-5)
    assert scores.student.counts.sum() == len(scores.student.ids) == sum(map(len, rows(scores, "student")))


@settings(max_examples=60)
@given(seed=seeds, spread=st.floats(0.1, 12))
def test_tails_are_the_mass_that_is_left(seed: int, spread: float) -> None:
    """At every temperature, to single precision of the tail itself, not of 1 minus the top tokens."""
    logits_TV, temperatures = teacher(3, seed=seed, spread=spread), (1.0, 2.0, 0.5)
    lists = [[0, 1, 2], [3], []]
    scores = truncate(logits_TV, [5, 6, 7], lists, support(temperatures=temperatures), seed=0)
    for column, temperature in enumerate(temperatures):
        p_TV = probabilities(logits_TV, temperature)
        for t, (head, union) in enumerate(zip(rows(scores, "top"), rows(scores, "student"), strict=True)):
            beyond_head = sorted(set(range(VOCAB)) - set(head))
            beyond_both = sorted(set(beyond_head) - set(union))
            assert scores.stats.tail_NH[t, column] == pytest.approx(p_TV[t, beyond_head].sum(), rel=1e-4, abs=1e-30)
            assert scores.stats.student_tail_NH[t, column] == pytest.approx(
                p_TV[t, beyond_both].sum(), rel=1e-4, abs=1e-30
            )


def test_normaliser_carries_log_probs_to_another_temperature() -> None:
    logits_TV = teacher(5)
    scores = truncate(logits_TV, [0] * 5, [[1, 2]] * 5, support(temperatures=(1.0, 2.0)), seed=0)
    assert (scores.stats.lse_NH[:, 0] == 0).all()
    p_TV = probabilities(logits_TV, 2.0)
    for group in ("top", "student"):
        for p_V, lse, row in zip(p_TV, scores.stats.lse_NH[:, 1], rows(scores, group), strict=True):
            assert [np.exp(logp / 2 - lse) for logp in row.values()] == pytest.approx(
                [p_V[token] for token in row], rel=1e-5
            )


def test_sampled_token_and_entropy() -> None:
    logits_TV, tokens = teacher(5), [3, 1, 4, 1, 5]
    scores = truncate(logits_TV, tokens, [], support(), seed=0)
    p_TV = probabilities(logits_TV)
    assert scores.stats.token_logp_N == pytest.approx(np.log(p_TV[range(5), tokens]), abs=1e-5)
    assert scores.stats.entropy_NH[:, 0] == pytest.approx(-(p_TV * np.log(p_TV)).sum(-1), rel=1e-5)


@settings(max_examples=30)
@given(seed=seeds, spread=st.floats(0.1, 12))
def test_there_is_an_entropy_for_each_temperature(seed: int, spread: float) -> None:
    logits_TV, temperatures = teacher(3, seed=seed, spread=spread), (1.0, 2.0, 0.5)
    scores = truncate(logits_TV, [5, 6, 7], [], support(temperatures=temperatures), seed=0)
    for column, temperature in enumerate(temperatures):
        p_TV = probabilities(logits_TV, temperature)
        expected = -(p_TV * np.log(np.maximum(p_TV, 1e-300))).sum(-1)
        assert scores.stats.entropy_NH[:, column] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=12)
@given(seed=seeds, cap=st.integers(1, 8), named=st.lists(st.integers(0, VOCAB - 1), max_size=8, unique=True))
def test_a_token_that_is_stored_only_because_sampled_is_marked(seed: int, cap: int, named: list[int]) -> None:
    """The tokens that are stored beside a marked token do not depend on which token was sampled."""
    logits_TV, p = teacher(1, seed=seed), support(max_entries=cap)
    others = set()
    for token in range(VOCAB):
        scores = truncate(logits_TV, [token], [named], p, seed=0)
        stored = {*rows(scores, "top")[0], *rows(scores, "student")[0]}
        others.add(frozenset(stored - {token} if scores.stats.stored_only_because_sampled_N[0] else stored))
    assert len(others) == 1


def test_an_impossible_token_stays_marked_even_if_it_was_recorded() -> None:
    logits_TV = torch.full((1, VOCAB), -torch.inf)
    logits_TV[0, 7] = 0.0
    assert truncate(logits_TV, [8], [[7, 8]], support(), seed=0).stats.stored_only_because_sampled_N.tolist() == [True]
    assert truncate(logits_TV, [7], [[7, 8]], support(), seed=0).stats.stored_only_because_sampled_N.tolist() == [False]


@settings(max_examples=60)
@given(seed=seeds, lists=st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=12), min_size=4, max_size=4))
def test_the_tail_mean_is_the_mean_over_unstored_tail_samples_plus_offset(seed: int, lists: list[list[int]]) -> None:
    logits_TV, likely, offset = teacher(4, seed=seed), [[1, 2], [], [3], [4, 5]], [0.0, 0.5, -1.0, 0.25]
    scores = truncate(logits_TV, [1, 2, 3, 4], likely, support(), seed=0, tail_sample_ids=lists, tail_offset=offset)
    logp_TV = logits_TV.double().log_softmax(-1).numpy()
    for t, (head, union) in enumerate(zip(rows(scores, "top"), rows(scores, "student"), strict=True)):
        counted = [logp_TV[t, token] for token in lists[t] if token not in head | union]
        expected = np.mean(counted) + offset[t] if counted else np.nan
        assert scores.stats.tail_mean_N[t] == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert np.isnan(truncate(logits_TV, [1, 2, 3, 4], likely, support(), seed=0).stats.tail_mean_N).all()


def test_a_one_hot_teacher_has_no_tail_no_entropy_and_no_tail_samples() -> None:
    logits_TV = torch.full((1, VOCAB), -torch.inf)
    logits_TV[0, 7] = 0.0
    scores = truncate(logits_TV, [7], [[7, 8]], support(), seed=0)
    assert scores.top.ids.tolist() == [7]
    assert scores.stats.tail_NH.tolist() == scores.stats.student_tail_NH.tolist() == [[0.0]]
    assert scores.stats.entropy_NH.tolist() == [[0.0]]
    assert len(scores.tail_samples.ids) == len(scores.student.ids) == 0


# Draws


@settings(max_examples=60)
@given(seed=seeds, spread=st.floats(0.1, 6), per_tail=st.sampled_from([0.0, 0.5, 10.0, 1000.0]))
def test_tail_samples_are_outside_the_top_tokens_and_as_many_as_the_mass_requires(
    seed: int, spread: float, per_tail: float
) -> None:
    p, logits_TV = support(samples_per_tail=per_tail), teacher(4, seed=seed, spread=spread)
    scores = truncate(logits_TV, [0] * 4, [[1, 2, 3]] * 4, p, seed=seed)
    logp_TV = logits_TV.double().log_softmax(-1).numpy()
    for t, (head, ids) in enumerate(zip(rows(scores, "top"), drawn(scores), strict=True)):
        tail = scores.stats.tail_NH[t, 0]
        assert len(ids) == (min(np.ceil(tail * np.float32(per_tail)), 255) if tail > p.min_tail else 0)
        assert not set(ids) & set(head)
        assert rows(scores, "tail_samples")[t] == pytest.approx({token: logp_TV[t, token] for token in ids}, abs=1e-5)


def test_tail_samples_follow_the_distribution_of_the_tail() -> None:
    """Chi-square over 255 samples at each of 200 equal positions; with 7 degrees of freedom P(> 24.3) is 0.001."""
    p_V = np.array([0.3, 0.15, 0.12, 0.1, 0.09, 0.08, 0.07, 0.05, 0.04])
    logits_TV = torch.from_numpy(np.log(p_V)).float().expand(200, -1)
    scores = truncate(logits_TV, [0] * 200, [], support(threshold=0.2, samples_per_tail=1e6), seed=3)
    counts = np.bincount(scores.tail_samples.ids, minlength=9)
    expected = 200 * 255 * p_V[1:] / p_V[1:].sum()
    assert counts[0] == 0
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 24.3


def test_positions_are_sampled_independently() -> None:
    logits_TV = torch.zeros(40, VOCAB)
    scores = truncate(logits_TV, [0] * 40, [], support(samples_per_tail=4.0), seed=0)
    assert len({tuple(ids) for ids in drawn(scores)}) > 35


def test_a_light_tail_gets_no_tail_samples() -> None:
    logits_TV = torch.tensor([[0.97, 0.02, 0.01], [0.99, 0.006, 0.004]]).log()
    scores = truncate(logits_TV, [0, 0], [], support(threshold=0.5), seed=0)
    assert scores.tail_samples.counts.tolist() == [1, 0]


def test_tail_samples_depend_on_the_seed_and_not_on_student_support_tokens() -> None:
    logits_TV = torch.zeros(3, VOCAB)
    scores = truncate(logits_TV, [0] * 3, [], support(), seed=1)
    with_union = truncate(logits_TV, [0] * 3, [[1, 2]] * 3, support(), seed=1)
    other = truncate(logits_TV, [0] * 3, [], support(), seed=2)
    assert drawn(scores) == drawn(with_union)
    assert drawn(scores) != drawn(other)


def test_one_possible_token_is_a_distribution() -> None:
    logits_TV = torch.full((2, VOCAB), -torch.inf)
    logits_TV[:, 7] = 3.0
    scores = truncate(logits_TV, [7, 9], [[8], [8]], support(temperatures=(1.0, 2.0)), seed=0)
    assert [scores.top.ids.tolist(), scores.top.logp.tolist()] == [[7, 7, 9], [0.0, 0.0, -np.inf]]
    assert scores.stats.token_logp_N.tolist() == [0.0, -np.inf]
    for values in (scores.stats.tail_NH, scores.stats.entropy_NH, scores.stats.student_tail_NH):
        assert values.tolist() == [[0.0, 0.0]] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_distribution_is_told_with_its_position(value: float | None) -> None:
    """None: minus infinity alone."""
    logits_TV = teacher(4)
    logits_TV[2, slice(None) if value is None else 5] = -torch.inf if value is None else value
    with pytest.raises(NoDistributionError) as caught:
        truncate(logits_TV, [1, 2, 3, 4], [[]] * 4, support(), seed=0)
    assert caught.value.row == 2
