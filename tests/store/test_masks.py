"""Completions of which others wrote tokens: their keys, and the positions that a segment has of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.core.types import ScoredSequence
from pipeline.store.keys import key_of, sequence_key
from pipeline.store.lookup import find_known
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.store.store import Store
from schemas.segment import TOKENS
from tests.factories import rollout, scored_sequence
from tests.scores import header, top_only

VOCAB = 50
MASKED = rollout("masked", [5, 6, 7, 8], completion_mask=[True, False, False, True], finished=True)
# The teacher finds token 5 likeliest and token 8 not: rows of the two scored tokens alone.
SCORES = top_only([5, 9, 8], np.log([0.8, 0.7, 0.1]), [1, 2], tail=0.2, token_logp=np.log([0.8, 0.1]))
SEQUENCES = [scored_sequence(1), ScoredSequence(rollout=MASKED, scores=SCORES), scored_sequence(2)]


def written(path: Path, sequences: list[ScoredSequence]) -> Segment:
    write_segment(path, sequences, header(VOCAB), np.arange(VOCAB))
    return Segment.open(path)


def test_a_mask_changes_the_key_unless_it_is_all_true() -> None:
    plain = replace(MASKED, completion_mask=[])
    # As in stores of earlier versions: sha256 of the sha256 of both lists.
    assert sequence_key(plain) == "82ebdc8a2c5ef2891471abb13161e23c420f5ee06b368a57c9a5342c3419c419"
    assert key_of(replace(MASKED, completion_mask=[True] * 4)) == key_of(plain)
    others = [replace(MASKED, completion_mask=mask) for mask in ([False, True, True, True], [True, False, True, True])]
    assert len({sequence_key(sequence) for sequence in (plain, MASKED, *others)}) == 4


def test_a_segment_has_positions_of_scored_tokens_alone(tmp_path: Path) -> None:
    segment = written(tmp_path / "segment", SEQUENCES)
    segment.verify()
    assert segment.manifest.positions == 4 + 2 + 4
    assert [segment.tokens(row).completion_mask for row in range(3)] == [[], MASKED.completion_mask, []]
    assert segment.tokens(1).completion_ids == [5, 6, 7, 8]
    assert [len(scores) for scores in segment.read(0, 3)] == [4, 2, 4]
    row = segment.index.slice(1, 1).to_pylist()[0]
    assert (row["positions"], row["ended"], row["top1_agreement"]) == (2, True, 0.5)
    assert row["teacher_nll"] == pytest.approx(-(np.log(0.8) + np.log(0.1)) / 2, abs=0.02)
    assert row["mean_tail"] == pytest.approx(0.2, abs=0.01)


def test_another_mask_is_another_sequence(tmp_path: Path) -> None:
    segment, rollouts = written(tmp_path / "segment", SEQUENCES), [sequence.rollout for sequence in SEQUENCES]
    assert segment.differs_from(rollouts) is None
    for mask in ([True, False, True, True], []):
        assert segment.differs_from([rollouts[0], replace(MASKED, completion_mask=mask), rollouts[2]]) == 1


def test_a_segment_without_masks_has_the_bytes_of_earlier_versions(tmp_path: Path) -> None:
    plain = [SEQUENCES[0], SEQUENCES[2]]
    all_true = [replace(part, rollout=replace(part.rollout, completion_mask=[True] * 4)) for part in plain]
    manifests = [written(tmp_path / name, part).manifest for name, part in (("a", plain), ("b", all_true))]
    assert manifests[0] == manifests[1]
    assert pq.read_schema(tmp_path / "a/tokens.parquet").names == TOKENS.names


def test_the_store_finds_a_masked_sequence_and_no_other(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    store.publish(SEQUENCES, header(VOCAB), np.arange(VOCAB))
    other = replace(MASKED, completion_mask=[True, True, False, True])
    (location,) = find_known(
        tmp_path, "scorer", [key_of(MASKED), key_of(other), key_of(replace(other, completion_mask=[]))]
    )
    assert location.key == key_of(MASKED)
    assert len(store.read([location])[key_of(MASKED)]) == 2
