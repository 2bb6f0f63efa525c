"""bench.end_to_end.reuse at a size that takes no time: the same steps through the pipeline and with a live teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.end_to_end.job import initialise_student, job, make_corpus, merged, run_round
from bench.end_to_end.live import run_live
from bench.end_to_end.reuse import main, scaled, thinned
from pipeline.training.log import read_log
from tests.project import PARAMS


def test_every_student_pays_for_its_own_rollouts_alone(small_job: Path) -> None:
    words = ["--steps", "1", "--refresh", "1", "--students", "2", "--json", "rows.json"]
    CliRunner().invoke(main, words, catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads((small_job / "rows.json").read_text(encoding="utf-8"))["rows"]}
    assert list(rows) == [
        "pipeline: corpus, once",
        *[f"pipeline: {name} student" for name in ("first", "second")],
        *[f"live teacher: {name} student" for name in ("first", "second")],
        "fixed data: first student",
    ]
    assert rows["pipeline: corpus, once"]["teacher_tokens"] > 0
    assert rows["fixed data: first student"]["teacher_tokens"] == 0
    for name in ("first", "second"):
        ours, live = rows[f"pipeline: {name} student"], rows[f"live teacher: {name} student"]
        assert 0 < ours["teacher_tokens"] < live["teacher_tokens"]
        assert ours["of_live_teacher_tokens"] == ours["teacher_tokens"] / live["teacher_tokens"]
    assert rows["pipeline: first student"]["of_fixed_seconds"] > 0


def test_a_live_teacher_takes_the_pipelines_steps(small_job: Path) -> None:
    """In the first round both have the same rollouts: the same sequences, and the loss that a whole row gives."""
    whole = {"scoring": {"truncation": {"threshold": 0.0, "max_entries": 260}}, "students": ["small"]}
    with job(small_job / "job", merged(scaled(PARAMS, ["small"], steps=2, refresh=2), whole)) as rounds:
        make_corpus()
        initialise_student("small")
        run_round("small", rounds[0])
        live = run_live("small", rounds, small_job / "live")
        logged = read_log(Path("logs/small/r1/train.csv"))
    assert live.trained_tokens == sum(row["read_tokens"] for row in logged)
    assert live.losses == pytest.approx([row["loss"] for row in logged], rel=0.02)


@pytest.mark.parametrize(
    ("layers", "share", "kept"), [([0, 2], 0.5, [0, 2]), ([0, 1, 3, 5, 8], 0.5, [0, 8]), (None, 0.5, None)]
)
def test_cuts_keep_the_ends(layers: Any, share: float, kept: Any) -> None:
    assert thinned(layers, share) == kept


def test_a_smaller_job_passes_as_often_over_its_data() -> None:
    document = merged(PARAMS, {"schedule": {"total_steps": 30, "refresh_every": 10}, "rollout": {"prompts": 10}})
    changes = scaled(merged(document, {"corpus": {"references": 20, "generations": 10}}), ["small"], steps=6, refresh=5)
    assert (changes["rollout"]["prompts"], changes["corpus"]) == (5, {"references": 4, "generations": 2})
    whole = merged(document, {"task": {"train": 50}, "corpus": {"references": None, "generations": 0}})
    assert scaled(whole, ["small"], steps=6, refresh=5)["corpus"] == {"references": 10}
