"""pipeline.store_admin.rescore: the teacher that wrote a store agrees with it, and what another one wrote does
not pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.types import ScoredSequence, Scores
from pipeline.scoring.hf_scorer import HFScorer
from pipeline.scoring.scorer import Scorer, TruncationParams
from pipeline.store.keys import key_of
from pipeline.store.store import Store
from pipeline.store_admin.integrity import segments
from pipeline.store_admin.rescore import ROUNDING, SampledSequence, comparable, compare, sample_sequences
from tests.factories import rollout
from tests.scores import header, top_only, with_stats

VOCAB = 260
SUPPORT = TruncationParams(threshold=0.005, max_entries=64, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0,))
HEADER = header(VOCAB)


def engine(path: Path, batch_size: int = 1) -> HFScorer:
    return HFScorer(path, precision="float32", vocab=VOCAB, truncation=SUPPORT, batch_size=batch_size)


def scored(scorer: Scorer) -> list[ScoredSequence]:
    generator = np.random.default_rng(0)
    rollouts = [
        rollout(f"r{i}", generator.integers(0, VOCAB, length).tolist()) for i, length in enumerate((9, 1, 14, 6, 11, 0))
    ]
    scores = [*scorer.score(rollouts[:-1], lambda count: None), nothing()]
    return [ScoredSequence(rollout=rollout, scores=score) for rollout, score in zip(rollouts, scores, strict=True)]


def nothing() -> Scores:
    """Of a completion without tokens."""
    return top_only([], 0.0, [], tail=0.0, token_logp=0.0)


@pytest.fixture(scope="module")
def store(teacher_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two segments of the teacher: three sequences each, one of them empty."""
    made, sequences = Store(root=tmp_path_factory.mktemp("store")), scored(engine(teacher_dir))
    for part in (sequences[:3], sequences[3:]):
        made.publish(part, HEADER, np.arange(VOCAB))
    return made


def compared(drawn: Sequence[SampledSequence], scorer: Scorer) -> Any:
    return compare(drawn, scorer, lambda count: None, ROUNDING["torch.float32"])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_teacher_agrees_with_what_it_said(store: Store, teacher_dir: Path, batch_size: int) -> None:
    actual = compared(sample_sequences(segments(store.root), 10), engine(teacher_dir, batch_size))
    assert (actual.sequences, actual.positions) == (5, 41)
    assert actual.entries > 41 * 3
    assert actual.holds
    assert 0 < actual.mean < actual.largest < 0.25
    assert 0 < actual.mean_kl < actual.allowed_kl < 0.05


def test_another_teacher_does_not(store: Store, make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    actual = compared(
        sample_sequences(segments(store.root), 10), engine(make_model_dir(tmp_path / "other", layers=4, seed=9))
    )
    assert not actual.holds
    assert actual.excess > 1
    assert actual.mean_kl > 10 * actual.allowed_kl


@pytest.mark.parametrize("shift", [0.04, -0.04])
def test_a_likely_entry_is_held_to_the_codecs_step_and_not_to_its_widest_bound(
    store: Store, teacher_dir: Path, shift: float
) -> None:
    """.24 nats are allowed at p = .001, and half a step of sqrt(p) near 1, which is less than .01."""
    drawn = sample_sequences(segments(store.root), 10)
    likeliest = max(drawn, key=lambda sample: sample.stored.top.logp.max())
    logp = likeliest.stored.top.logp.copy()
    assert logp.max() > -0.7
    logp[logp.argmax()] += shift
    moved = replace(likeliest, stored=replace(likeliest.stored, top=replace(likeliest.stored.top, logp=logp)))
    assert compared([likeliest], engine(teacher_dir)).holds
    assert compared([moved], engine(teacher_dir)).excess > 0.005


def test_a_wrong_tail_is_seen_in_the_divergence(store: Store, teacher_dir: Path) -> None:
    drawn = sample_sequences(segments(store.root), 10)
    wrong = [
        replace(sample, stored=with_stats(sample.stored, tail_NH=sample.stored.stats.tail_NH + 0.5)) for sample in drawn
    ]
    actual = compared(wrong, engine(teacher_dir))
    assert actual.excess == 0
    assert not actual.holds


def test_the_same_sequences_are_sampled_each_time_and_a_smaller_sample_is_a_part(store: Store) -> None:
    paths = segments(store.root)
    all_ids = [sequence.tokens.completion_ids for sequence in sample_sequences(paths, 6)]
    part = [sequence.tokens.completion_ids for sequence in sample_sequences(paths, 3)]
    assert [sequence.tokens.completion_ids for sequence in sample_sequences(paths[::-1], 3)] == part
    assert 2 <= len(part) <= 3  # the empty completion is sampled and filtered
    assert all(ids in all_ids for ids in part)
    assert len(all_ids) == 5


def test_only_this_scorers_segments_are_compared(store: Store, teacher_dir: Path, tmp_path: Path) -> None:
    mixed = Store(root=tmp_path / "mixed")
    sequences = scored(engine(teacher_dir))
    mixed.publish(sequences[:2], HEADER, np.arange(VOCAB))
    mixed.publish(sequences[2:4], replace(HEADER, scorer="another"), np.arange(VOCAB))
    (ours,) = comparable(segments(mixed.root), "scorer")
    keys = {key_of(sequence.rollout) for sequence in sequences[:2]}
    assert len(sample_sequences([ours], 9)) == len(keys) == 2
