"""pipeline.store_admin.import_scores: what others scored is found here at once, byte for byte, and nothing
damaged comes in."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.types import Rollout
from pipeline.scoring.score import score_rollouts
from pipeline.store.keys import key_of
from pipeline.store.lookup import find_known
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.store.store import Store
from pipeline.store_admin.import_scores import find_sealed, import_segments
from pipeline.store_admin.integrity import segments
from tests.factories import rollout, scoring_params
from tests.scores import header
from tests.training_jobs import CountingTeacher

HEADER = header(50, codec="topk")  # whole nats are decoded exactly
RANKS = np.arange(50)[::-1].copy()
PARAMS = scoring_params()
ROLLOUTS = [rollout(f"r{token}", [token, token + 1]) for token in (5, 3, 9, 7)]


def scored(rollouts: list[Rollout], store: Store) -> Any:
    """What the teacher of tests.test_scoring says; published as the score stage does."""

    def publish(fresh: Any) -> None:
        store.publish(fresh, HEADER, RANKS)

    return score_rollouts(rollouts, {}, CountingTeacher().load, publish, PARAMS, title="score")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A work directory with a self-contained segment of four sequences, and the store that the stage filled: 2 + 2."""
    sequences = scored(ROLLOUTS, Store(root=tmp_path / "theirs/.store"))
    write_segment(tmp_path / "theirs/work/small/r1/segment", sequences, HEADER, RANKS)
    return tmp_path / "theirs"


def outcomes(root: Path, source: Path) -> list[str]:
    return [segment.outcome for segment in import_segments(root, find_sealed(source))]


def files(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("part", "count"), [("work", 1), (".store", 2)])
def test_what_was_imported_never_reaches_the_teacher(checkout: Path, tmp_path: Path, part: str, count: int) -> None:
    ours = Store(root=tmp_path / "ours")
    assert outcomes(ours.root, checkout / part) == ["imported"] * count
    known = ours.read(find_known(ours.root, "scorer", [key_of(rollout) for rollout in ROLLOUTS]))
    teacher = CountingTeacher()
    again = score_rollouts(ROLLOUTS, known, teacher.load, teacher.publish, PARAMS, title="score")
    assert (teacher.loaded, [sequence.scores.stats.token_logp_N[0] for sequence in again]) == (0, [-5, -3, -9, -7])


@pytest.mark.parametrize("part", ["work", ".store"])
def test_a_segment_keeps_its_bytes_and_its_id(checkout: Path, tmp_path: Path, part: str) -> None:
    sources = find_sealed(checkout / part)
    assert [segment.outcome for segment in import_segments(tmp_path / "ours", sources)] == ["imported"] * len(sources)
    copies = {segment.name: segment for segment in segments(tmp_path / "ours")}
    assert len(copies) == len(sources)
    for source in sources:
        copy = copies[Segment.open(source).manifest.segment_id]
        assert files(copy) == files(source)
        Segment.open(copy).verify()


def test_what_is_known_is_not_copied_under_whatever_id(checkout: Path, tmp_path: Path) -> None:
    """The work directory's segment holds what two of the store's segments hold."""
    assert outcomes(checkout / ".store", checkout) == ["known"] * 3
    ours = tmp_path / "ours"
    assert outcomes(ours, checkout) == ["imported", "imported", "known"]
    assert outcomes(ours, checkout) == ["known"] * 3
    assert len(segments(ours)) == 2


def test_another_teachers_scores_of_the_same_sequences_are_something_else(checkout: Path, tmp_path: Path) -> None:
    sequences = scored(ROLLOUTS, Store(root=tmp_path / "other"))
    write_segment(tmp_path / "new/segment", sequences, replace(HEADER, scorer="another"), RANKS)
    assert outcomes(checkout / ".store", tmp_path / "new") == ["imported"]


@pytest.mark.parametrize("name", ["payload.zarr/head/c.0.0", "ranks.parquet", "manifest.json", "index.parquet"])
def test_a_damaged_segment_stays_outside_and_does_not_stop_the_others(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    broken = checkout / "work/small/r1/segment" / name
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 4
    broken.write_bytes(bytes(data))
    shutil.copytree(checkout / ".store", checkout / "work/z")
    actual = list(import_segments(tmp_path / "ours", find_sealed(checkout / "work")))
    assert [result.outcome for result in actual] == ["damaged", "imported", "imported"]
    assert actual[0].error is not None
    assert "small/r1/segment" in str(actual[0].error)
    assert len(segments(tmp_path / "ours")) == 2


def test_unfinished_and_quarantined_segments_are_not_looked_at(checkout: Path) -> None:
    for place in (".tmp-1-a-host", "quarantine/x"):
        shutil.copytree(checkout / "work/small/r1/segment", checkout / "work" / place)
    assert find_sealed(checkout / "work") == [checkout / "work/small/r1/segment"]
    assert find_sealed(checkout / "work/small/r1/segment") == [checkout / "work/small/r1/segment"]
