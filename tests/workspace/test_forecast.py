"""pipeline.workspace.forecast: what exists counts exactly, what does not is estimated from it, and torch stays
outside."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import TruncationParams
from pipeline.store.records import ScoredSequence, SegmentHeader
from pipeline.store.store import Store
from pipeline.store_admin.integrity import segments, summarise_segment
from pipeline.workspace.forecast import (
    ForecastInputs,
    Rate,
    ScoreStage,
    Size,
    find_scorer,
    forecast,
    store_sizes,
    teacher_rate,
)
from tests.factories import rollout, scores_of
from tests.scores import header

SUPPORT = TruncationParams(
    threshold=0.005, max_entries=64, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0, 2.0)
)
SCORING = ScoringParams(precision="auto", batch_size=1, flush_every=2, codec="sqrt8", truncation=SUPPORT)
SAID = {"threshold": 0.005, "max_entries": 64, "draws_per_tail": 8.0, "min_tail": 0.02, "temperatures": [1.0, 2.0]}
HEADER = header(90, scoring={"support": SAID})
SAMPLING = Sampling(
    max_new_tokens=40, temperature=1.0, top_p=1.0, record_threshold=0.1, record_max=4, record_tail_samples=0
)


def written(source: Any, *lengths: int) -> list[Rollout]:
    """Rollouts that no two calls of other lengths share."""
    made = [rollout(f"{source}{i}", [i, *range(length, 2 * length - 1)]) for i, length in enumerate(lengths)]
    return [replace(one, source=source) for one in made]


def prompt(length: int, reference: int) -> Prompt:
    return Prompt(
        prompt_id=str(length),
        split="train",
        prompt_ids=[1] * length,
        reference_ids=[2] * reference,
        prompt_text="",
        references=[""],
    )


def size(kind: Any, positions: int, payload: int, rest: int) -> Size:
    return Size(kind=kind, positions=positions, payload=payload, rest=rest)


def grounds(root: Path, **changes: Any) -> ForecastInputs:
    made = ForecastInputs(
        prompts=[prompt(10, 6), prompt(20, 8)],
        max_prompt_tokens=99,
        corpus=CorpusParams(references=3, generations=4, samples_per_prompt=2),
        rollout=RolloutParams(prompts=5, samples_per_prompt=3, batch_size=8, precision="auto", sampling=SAMPLING),
        store=root,
        scorer="scorer",
        flush_every=2,
        sizes={"s": size("student", 10, 1000, 30), "t": size("student", 30, 3000, 50), "c": size("corpus", 2, 100, 7)},
        seconds_rate=Rate(value=0.5, basis="t"),
    )
    return replace(made, **changes)


def publish(root: Path, rollouts: list[Rollout], said: SegmentHeader = HEADER) -> Path:
    sequences = [ScoredSequence(rollout=one, scores=scores_of(one.completion_ids)) for one in rollouts]
    path = Store(root=root).publish(sequences, said, np.arange(90))
    assert path is not None
    return path


def test_rollouts_that_exist_count_exactly_less_what_is_known(tmp_path: Path) -> None:
    rollouts = written("student", 4, 6, 9)
    publish(tmp_path, rollouts[1:])
    twice = [*rollouts, replace(rollouts[0], rollout_id="twin")]
    (need,) = forecast([ScoreStage(name="s r1", student="s", rollouts=twice)], grounds(tmp_path))
    assert (need.known, need.positions, need.tokens) == (15, 4, 6)
    assert (need.bytes, need.seconds) == (4 * 100 + 40, 3.0)
    assert "; 100.0 B/position and 40 B a segment as in 2 segments of rollouts; 2 tokens/s of t" in need.basis
    (cold,) = forecast([ScoreStage(name="s r1", student="s", rollouts=twice)], grounds(tmp_path, scorer="another"))
    assert (cold.known, cold.positions) == (0, 19)


def test_nothing_is_asked_for_what_is_known(tmp_path: Path) -> None:
    publish(tmp_path, written("student", 4, 6))
    (need,) = forecast([ScoreStage(name="s r1", student="s", rollouts=written("student", 4, 6))], grounds(tmp_path))
    assert (need.positions, need.bytes, need.seconds, need.basis) == (0, 0, 0.0, "its rollouts, counted")


def test_before_anything_exists_the_most_is_assumed(tmp_path: Path) -> None:
    works = [
        ScoreStage(name="corpus", student=None, rollouts=None),
        ScoreStage(name="s r1", student="s", rollouts=None),
    ]
    corpus, first = forecast(works, grounds(tmp_path, sizes={}, seconds_rate=None))
    assert (corpus.positions, corpus.tokens) == (3 * 7 + 8 * 40, 341 + 4 * 15)
    assert (first.positions, first.tokens) == (2 * 3 * 40, 240 + 2 * 15)  # two prompts are all there are
    assert (corpus.bytes, corpus.seconds) == (None, None)
    assert "bytes need a sample: --sample N, or `dvc repro corpus`" in corpus.basis
    _, unprepared = forecast(works, grounds(tmp_path, prompts=[]))
    assert (unprepared.positions, unprepared.tokens) == (5 * 3 * 40, 600 + 5 * 99)


def test_later_rounds_go_from_the_students_length_towards_the_teachers(tmp_path: Path) -> None:
    works = [
        ScoreStage(name="corpus", student=None, rollouts=[*written("teacher", 8, 8), *written("dataset", 30)]),
        ScoreStage(name="s r1", student="s", rollouts=written("student", 16, 24)),
        ScoreStage(name="s r2", student="s", rollouts=written("student", 15, 17)),
        ScoreStage(name="s r3", student="s", rollouts=None),
        ScoreStage(name="s r4", student="s", rollouts=None),
        ScoreStage(name="t r1", student="t", rollouts=None),
    ]
    *_, third, fourth, other = forecast(works, grounds(tmp_path))
    assert [one.positions for one in (third, fourth, other)] == [6 * 12, 6 * 10, 6 * 12]
    assert third.bytes == 72 * 100 + 3 * 40  # three segments of two completions
    assert "from 16.0 in s r2 towards the teacher's 8.0" in third.basis
    (alone,) = forecast(works[1:4], grounds(tmp_path))[2:]
    assert alone.positions == 6 * 16


def test_sizes_are_those_of_the_same_scorers_segments(tmp_path: Path) -> None:
    student = publish(tmp_path, written("student", 4, 6))
    corpus = publish(tmp_path, [*written("dataset", 5), *written("teacher", 7)])
    publish(tmp_path, written("student", 11), replace(HEADER, scorer="another"))
    sizes = store_sizes(segments(tmp_path), "scorer")
    assert {name: (one.kind, one.positions) for name, one in sizes.items()} == {
        student.name: ("student", 10),
        corpus.name: ("corpus", 12),
    }
    for path in (student, corpus):
        chunks = sum(one.stat().st_size for one in (path / "payload.zarr").rglob("c.*"))
        assert chunks and sizes[path.name].payload == chunks
        assert sizes[path.name].rest == summarise_segment(path).bytes - chunks
    assert store_sizes(segments(tmp_path), None) == {}


def test_what_is_stored_of_the_same_rollouts_tells_most_of_the_rest(tmp_path: Path) -> None:
    rollouts = written("student", 4, 6, 9, 3)
    own = publish(tmp_path, rollouts[:2])
    sizes = {own.name: size("student", 10, 70, 9), "r0": size("student", 10, 1000, 90)}
    (need,) = forecast([ScoreStage(name="s r1", student="s", rollouts=rollouts)], grounds(tmp_path, sizes=sizes))
    assert (need.known, need.positions, need.bytes) == (10, 12, 12 * 7 + 9)
    assert "7.0 B/position and 9 B a segment as in 1 segments with some of its own sequences" in need.basis


def test_another_kind_tells_where_there_is_nothing_else(tmp_path: Path) -> None:
    works = [ScoreStage(name="s r1", student="s", rollouts=written("student", 4, 6))]
    (need,) = forecast(works, grounds(tmp_path, sizes={"c": size("corpus", 2, 100, 7)}))
    assert need.bytes == 10 * 50 + 7
    assert "of corpora" in need.basis


def test_the_scorer_is_found_by_the_parameters_that_a_segment_was_written_with(tmp_path: Path) -> None:
    publish(tmp_path, written("student", 4))
    paths = segments(tmp_path)
    assert find_scorer(paths, "teacher", SCORING) == "scorer"
    assert find_scorer(paths, "teacher", replace(SCORING, precision="float32")) == "scorer"
    assert find_scorer(paths, "teacher", replace(SCORING, precision="bfloat16")) is None
    assert find_scorer(paths, "teacher", replace(SCORING, truncation=replace(SUPPORT, threshold=0.1))) is None
    assert find_scorer(paths, "another", SCORING) is None
    assert find_scorer([], "teacher", SCORING) is None


def test_seconds_are_those_of_the_stages_that_asked_the_teacher() -> None:
    costs = {
        "corpus-score": {"tokens": 30, "seconds": 10.0},
        "s-r1-score": {"tokens": 10, "seconds": 10.0},
        "s-r2-score": {"tokens": 0, "seconds": 7.0},
        "s-r1-train": {"tokens": 1000, "seconds": 1.0},
    }
    assert teacher_rate(costs) == Rate(value=0.5, basis="2 score stages")
    assert teacher_rate({}) is None


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys, pipeline.workspace.forecast_inputs, stages.cli.store; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
