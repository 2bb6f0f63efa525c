"""pipeline.workspace.forecast: rollouts that exist count exactly, others are estimated from them, without torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, ScoredSequence
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import TruncationParams
from pipeline.store.store import Store
from pipeline.store_admin.integrity import segments, summarise_segment
from pipeline.workspace.forecast import (
    ForecastInputs,
    ScoreStage,
    SegmentSize,
    find_scorer,
    forecast,
    store_sizes,
    teacher_rate,
)
from schemas.manifest import SegmentHeader
from tests.factories import rollout, scores_of
from tests.scores import header as segment_header

SUPPORT = TruncationParams(
    threshold=0.005, max_entries=64, samples_per_tail=8.0, min_tail=0.02, temperatures=(1.0, 2.0)
)
SCORING = ScoringParams(precision="auto", batch_size=1, flush_every=2, codec="sqrt8", truncation=SUPPORT)
STORED_TRUNCATION = {
    "threshold": 0.005,
    "max_entries": 64,
    "draws_per_tail": 8.0,
    "min_tail": 0.02,
    "temperatures": [1.0, 2.0],
}
HEADER = segment_header(90, scoring={"support": STORED_TRUNCATION})
SAMPLING = Sampling(
    max_new_tokens=40, temperature=1.0, top_p=1.0, record_threshold=0.1, record_max=4, record_tail_samples=0
)


def written(source: Any, *lengths: int) -> list[Rollout]:
    """Rollouts that no two calls of other lengths share."""
    rollouts = [rollout(f"{source}{i}", [i, *range(length, 2 * length - 1)]) for i, length in enumerate(lengths)]
    return [replace(rollout, source=source) for rollout in rollouts]


def prompt(length: int, reference: int) -> Prompt:
    return Prompt(
        prompt_id=str(length),
        split="train",
        prompt_ids=[1] * length,
        reference_ids=[2] * reference,
        prompt_text="",
        references=[""],
    )


def size(kind: str, positions: int, payload: int, rest: int) -> SegmentSize:
    return SegmentSize(student=kind == "student", positions=positions, payload=payload, rest=rest)


def forecast_inputs(root: Path, **changes: Any) -> ForecastInputs:
    inputs = ForecastInputs(
        prompts=[prompt(10, 6), prompt(20, 8)],
        train=30,
        max_prompt_tokens=99,
        corpus=CorpusParams(references=3, generations=4, samples_per_prompt=2),
        rollout=RolloutParams(prompts=5, samples_per_prompt=3, batch_size=8, precision="auto", sampling=SAMPLING),
        store=root,
        scorer="scorer",
        flush_every=2,
        sizes={"s": size("student", 10, 1000, 30), "t": size("student", 30, 3000, 50), "c": size("corpus", 2, 100, 7)},
        costs={"corpus-score": {"tokens": 20, "seconds": 10.0}},
    )
    return replace(inputs, **changes)


def publish(root: Path, rollouts: list[Rollout], header: SegmentHeader = HEADER) -> Path:
    sequences = [ScoredSequence(rollout=rollout, scores=scores_of(rollout.completion_ids)) for rollout in rollouts]
    path = Store(root=root).publish(sequences, header, np.arange(90))
    assert path is not None
    return path


def test_written_rollouts_are_counted_without_stored_ones(tmp_path: Path) -> None:
    rollouts = written("student", 4, 6, 9)
    publish(tmp_path, rollouts[1:])
    twice = [*rollouts, replace(rollouts[0], rollout_id="twin")]
    (estimate,) = forecast([ScoreStage(name="s r1", student="s", rollouts=twice)], forecast_inputs(tmp_path))
    assert (estimate.known, estimate.positions, estimate.tokens) == (15, 4, 6)
    assert (estimate.bytes, estimate.seconds) == (4 * 100 + 40, 3.0)
    assert (
        "; 100.0 B/position and 40 B per segment as in 2 segments of rollouts; 2 tokens/s of 1 score stages"
        in estimate.basis
    )
    (cold,) = forecast(
        [ScoreStage(name="s r1", student="s", rollouts=twice)], forecast_inputs(tmp_path, scorer="another")
    )
    assert (cold.known, cold.positions) == (0, 19)


def test_stored_scores_take_nothing(tmp_path: Path) -> None:
    publish(tmp_path, written("student", 4, 6))
    (estimate,) = forecast(
        [ScoreStage(name="s r1", student="s", rollouts=written("student", 4, 6))], forecast_inputs(tmp_path)
    )
    assert (estimate.positions, estimate.bytes, estimate.seconds, estimate.basis) == (
        0,
        0,
        0.0,
        "its rollouts, counted",
    )


def test_the_longest_lengths_are_assumed_before_anything_exists(tmp_path: Path) -> None:
    stages = [
        ScoreStage(name="corpus", student=None, rollouts=None),
        ScoreStage(name="s r1", student="s", rollouts=None),
    ]
    corpus, first = forecast(stages, forecast_inputs(tmp_path, sizes={}, costs={}))
    assert (corpus.positions, corpus.tokens) == (3 * 7 + 8 * 40, 341 + 4 * 15)
    assert (first.positions, first.tokens) == (2 * 3 * 40, 240 + 2 * 15)  # two prompts are all there are
    assert (corpus.bytes, corpus.seconds) == (None, None)
    assert "bytes need a sample: --sample N, or `dvc repro score@corpus`" in corpus.basis
    turns = [replace(part, assistant_mask=[False] * 5 + [True] * 3 + [False] * 12) for part in [prompt(20, 6)]]
    masked, _ = forecast(stages, forecast_inputs(tmp_path, prompts=turns, sizes={}, costs={}))
    assert masked.positions == 3 * (3 + 6) + 8 * 40
    _, unprepared = forecast(stages, forecast_inputs(tmp_path, prompts=[]))
    assert (unprepared.positions, unprepared.tokens) == (5 * 3 * 40, 600 + 5 * 99)


def test_a_corpus_of_all_prompts_counts_those_that_exist_or_that_params_yaml_admits(tmp_path: Path) -> None:
    stages = [ScoreStage(name="corpus", student=None, rollouts=None)]
    whole = CorpusParams(references=None, generations=None, samples_per_prompt=2)
    (estimate,) = forecast(stages, forecast_inputs(tmp_path, corpus=whole))
    assert (estimate.sequences, estimate.positions) == (2 + 4, 2 * 7 + 4 * 40)
    (unprepared,) = forecast(stages, forecast_inputs(tmp_path, corpus=whole, prompts=[]))
    assert (unprepared.sequences, unprepared.tokens) == (30 + 60, 90 * 40 + 30 * 99)


def test_lengths_of_later_rounds_move_half_way_to_the_teachers_length(tmp_path: Path) -> None:
    stages = [
        ScoreStage(name="corpus", student=None, rollouts=[*written("teacher", 8, 8), *written("dataset", 30)]),
        ScoreStage(name="s r1", student="s", rollouts=written("student", 16, 24)),
        ScoreStage(name="s r2", student="s", rollouts=written("student", 15, 17)),
        ScoreStage(name="s r3", student="s", rollouts=None),
        ScoreStage(name="s r4", student="s", rollouts=None),
        ScoreStage(name="t r1", student="t", rollouts=None),
    ]
    *_, third, fourth, other = forecast(stages, forecast_inputs(tmp_path))
    assert [estimate.positions for estimate in (third, fourth, other)] == [6 * 12, 6 * 10, 6 * 12]
    assert third.bytes == 72 * 100 + 3 * 40  # three segments of two completions
    assert "from 16.0 in s r2 towards the teacher's 8.0" in third.basis
    (alone,) = forecast(stages[1:4], forecast_inputs(tmp_path))[2:]
    assert alone.positions == 6 * 16


def test_sizes_come_from_segments_of_the_same_scorer(tmp_path: Path) -> None:
    student = publish(tmp_path, written("student", 4, 6))
    corpus = publish(tmp_path, [*written("dataset", 5), *written("teacher", 7)])
    publish(tmp_path, written("student", 11), replace(HEADER, scorer="another"))
    sizes = store_sizes(segments(tmp_path), "scorer")
    assert {name: (size.student, size.positions) for name, size in sizes.items()} == {
        student.name: (True, 10),
        corpus.name: (False, 12),
    }
    for path in (student, corpus):
        chunks = sum(chunk.stat().st_size for chunk in (path / "payload.zarr").rglob("c.*"))
        assert chunks and sizes[path.name].payload == chunks
        assert sizes[path.name].rest == summarise_segment(path).bytes - chunks
    assert store_sizes(segments(tmp_path), None) == {}


def test_bytes_come_from_segments_of_the_same_rollouts_first(tmp_path: Path) -> None:
    rollouts = written("student", 4, 6, 9, 3)
    own = publish(tmp_path, rollouts[:2])
    sizes = {own.name: size("student", 10, 70, 9), "r0": size("student", 10, 1000, 90)}
    (estimate,) = forecast(
        [ScoreStage(name="s r1", student="s", rollouts=rollouts)], forecast_inputs(tmp_path, sizes=sizes)
    )
    assert (estimate.known, estimate.positions, estimate.bytes) == (10, 12, 12 * 7 + 9)
    assert "7.0 B/position and 9 B per segment as in 1 segments with some of its own sequences" in estimate.basis


def test_bytes_come_from_another_kind_of_segment_last(tmp_path: Path) -> None:
    stages = [ScoreStage(name="s r1", student="s", rollouts=written("student", 4, 6))]
    (estimate,) = forecast(stages, forecast_inputs(tmp_path, sizes={"c": size("corpus", 2, 100, 7)}))
    assert estimate.bytes == 10 * 50 + 7
    assert "of corpora" in estimate.basis


def test_the_scorer_is_found_by_the_parameters_that_a_segment_was_written_with(tmp_path: Path) -> None:
    publish(tmp_path, written("student", 4))
    paths = segments(tmp_path)
    assert find_scorer(paths, "teacher", SCORING) == "scorer"
    assert find_scorer(paths, "teacher", replace(SCORING, precision="float32")) == "scorer"
    assert find_scorer(paths, "teacher", replace(SCORING, precision="bfloat16")) is None
    assert find_scorer(paths, "teacher", replace(SCORING, truncation=replace(SUPPORT, threshold=0.1))) is None
    assert find_scorer(paths, "another", SCORING) is None
    assert find_scorer([], "teacher", SCORING) is None


def test_seconds_come_from_stages_that_ran_the_teacher() -> None:
    costs = {
        "corpus-score": {"tokens": 30, "seconds": 10.0},
        "s-r1-score": {"tokens": 10, "seconds": 10.0},
        "s-r2-score": {"tokens": 0, "seconds": 7.0},
        "s-r1-train": {"tokens": 1000, "seconds": 1.0},
    }
    assert teacher_rate(costs) == (0.5, 2)
    assert teacher_rate({}) is None


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys, pipeline.workspace.forecast_inputs, stages.cli.store; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
