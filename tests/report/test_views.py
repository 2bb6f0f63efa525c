"""Views with and without files: their columns, and their figures on a run small enough to add up by hand."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.core.types import Prompt, Rollout, Source
from pipeline.evaluation.agreement import TokenComparison
from pipeline.evaluation.measurements import write_measurements
from pipeline.report.views import VIEWS, connect, query
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import write_json, write_rows
from pipeline.runtime.layout import Layout
from pipeline.store.segment_writer import write_index
from pipeline.training.log import write_log
from schemas.comparison import COMPARISON
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX
from tests.factories import prompt, rollout

PLACE = ["filename", "student", "round"]
RUNS = [
    *("student", "round", "step", "loss", "compared_tokens"),
    *("staleness_kl", "effective_share", "clipped_share", "truncated_share"),
]
COLUMNS = {
    "prompts": PROMPT.names,
    "rollouts": [*ROLLOUT.names, *PLACE],
    "scores": [*INDEX.names, *PLACE],
    "store": [*INDEX.names, "filename"],
    "runs": RUNS,
    "segments": [
        *("scorer", "teacher", "tokenizer", "engine", "dtype", "codec"),
        *("sequences", "positions", "head_entries", "draws", "union_entries"),
        *("student", "round", "size_bytes", "measured_positions", "error_nats"),
    ],
    "tokens": [*COMPARISON.names, "student", "round"],
    "ages": ["segment", "written", "age_hours", "sequences", "positions", "used"],
    "coverage": ["student", "round", "rollouts", "scored", "stored"],
    "tails": ["student", "round", "source", "measure", "sequences", "positions", "mean", "p50", "p90"],
    "disagreement": [
        *("student", "round", "prompt_id", "rollout_id", "positions"),
        *("student_logp", "teacher_logp", "gap", "top1_agreement"),
    ],
    "costs": [
        *("stage", "student", "round", "tokens", "seconds", "positions", "positions_reused", "payload_bytes"),
        *("steps", "steps_not_taken"),
    ],
    "rounds_cost": [
        *("student", "round", "seconds", "rollout_seconds", "score_seconds", "train_seconds", "evaluate_seconds"),
        *("rollout_tokens", "score_tokens", "train_tokens", "evaluate_tokens", "positions_scored", "positions_reused"),
    ],
    "staleness": [
        *("student", "round", "steps", "steps_not_taken", "compared_tokens", "staleness_kl", "worst_staleness_kl"),
        *("effective_share", "clipped_share", "truncated_share"),
    ],
    "duplicates": ["student", "round", "sequences", "repeated", "positions", "positions_repeated", "positions_reused"],
    "completions": ["student", "round", "prompt_id", "text", "teacher"],
}


def _rollout(name: str, logp: Sequence[float], source: Source = "student") -> Rollout:
    behaviour_logp = list(logp) if source == "student" else []
    changes: dict[str, Any] = {
        "prompt_id": f"p{name}",
        "policy": "",
        "behaviour_logp": behaviour_logp,
        "finished": True,
    }
    return rollout(name, [2] * len(logp), prompt=[1], source=source, **changes)


def _write_index(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write an index whose rows have these values, and defaults in all other columns."""
    plain: dict[str, Any] = {"string": "", "int64": 0, "int32": 1, "float": 0.5, "bool": True}
    blank = {field.name: plain.get(str(field.type), b"k" * 16) for field in INDEX}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_index(path, pa.Table.from_pylist([blank | row for row in rows], schema=INDEX))


def _key(name: str) -> dict[str, Any]:
    return {"score_key": name.encode().ljust(16), "sequence_key": name}


@pytest.fixture
def run(tmp_path: Path) -> duckdb.DuckDBPyConnection:
    """Return the views of a student with one round, a corpus, their costs and a store of two segments.

    Paths contain awkward characters.
    """
    root = tmp_path / "it's [a].work" / "round=7"
    work, store = root / "work", root / "store"
    student = [_rollout("a", [-1.0, -2.0]), _rollout("b", [-0.5, -0.5, -0.5]), _rollout("c", [-1.0])]
    write_rows(work / "small/r1/rollouts.parquet", student, ROLLOUT)
    write_rows(work / "corpus/rollouts.parquet", [_rollout("d", [-1.0, -1.0], "dataset")], ROLLOUT)
    of_a = {"rollout_id": "a", "source": "student", "positions": 2, "mean_tail": 0.25, "teacher_nll": 4.0}
    of_b = {"rollout_id": "b", "source": "student", "positions": 3, "mean_tail": 0.5, "teacher_nll": 0.25}
    of_d = {"rollout_id": "d", "source": "dataset", "positions": 2, "mean_tail": 0.125}
    _write_index(work / "small/r1/segment/index.parquet", [of_a | _key("x"), of_b | _key("y")])
    _write_index(work / "corpus/segment/index.parquet", [of_d | _key("x") | {"score_key": b"another support!"}])
    _write_index(store / "segments/one/index.parquet", [of_a | _key("x"), of_b | _key("z")])
    _write_index(store / "segments/two/index.parquet", [of_b | _key("z")])
    os.utime(store / "segments/two/index.parquet", (time.time() - 7200,) * 2)
    spent = {"tokens": 10, "seconds": 1.5}
    scored = {"positions": 5, "positions_reused": 2, "payload_bytes": 70}
    for name in ("teacher", "prepare", "generate", "small-init", "teacher-evaluate", "small-init-evaluate"):
        write_json(work / f"costs/{name}.json", spent | {"generation_seconds": 1.0})
    for name in ("small-r1-rollout", "small-r1-train", "small-r1-evaluate"):
        write_json(work / f"costs/{name}.json", spent)
    for name in ("corpus-score", "small-r1-score"):
        write_json(work / f"costs/{name}.json", spent | scored)
    return connect(work, tmp_path / "logs", store)


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return query(connection, sql)[1]


def test_views_without_files_are_empty_and_have_their_columns(tmp_path: Path) -> None:
    connection = connect(tmp_path / "work", tmp_path / "logs", tmp_path / "store")
    assert list(COLUMNS) == list(VIEWS)
    for name, columns in COLUMNS.items():
        assert query(connection, f"SELECT * FROM {name}") == (columns, [])


def test_types_are_the_same_with_and_without_files(run: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    empty = connect(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    for name in VIEWS:
        described = [_rows(views, f"SELECT column_name, column_type FROM (DESCRIBE {name})") for views in (run, empty)]
        assert described[0] == described[1], name


def test_prompts_and_runs(tmp_path: Path) -> None:
    prompt = Prompt(prompt_id="p", split="train", prompt_ids=[1], reference_ids=[2], prompt_text="", references=["é"])
    write_rows(tmp_path / "work/prompts/train.parquet", [prompt], PROMPT)
    for student, extra in (("x", ""), ("y", ",kl")):
        (tmp_path / "logs" / student).mkdir(parents=True)
        text = f"student,round,step,loss{extra}\n{student},0,1,0.5{extra and ',2'}\n"
        (tmp_path / "logs" / student / "train.csv").write_text(text, encoding="utf-8")
    (tmp_path / "logs/train.csv").write_text("", encoding="utf-8")  # a run that has just begun
    connection = connect(tmp_path / "work", tmp_path / "logs", tmp_path / "store")
    assert _rows(connection, "SELECT prompts.references[1] FROM prompts") == [("é",)]
    assert query(connection, "SELECT * FROM runs ORDER BY student") == (
        [*RUNS, "kl"],
        [("x", "0", 1, 0.5, *[None] * 5, None), ("y", "0", 1, 0.5, *[None] * 5, 2)],
    )


def test_staleness_of_a_round_is_weighted_by_tokens(tmp_path: Path) -> None:
    """The steps that max_staleness skipped are counted; greedy sampling (round r2) has no staleness."""
    rows = [
        {"student": "x", "round": "r1", "step": step, "loss": 1.0, "compared_tokens": tokens, "staleness_kl": kl}
        | {"effective_share": 1 - kl, "clipped_share": kl, "truncated_share": 0.5}
        for step, tokens, kl in ((1, 30, 0.0), (2, 10, 0.4))
    ]
    bare = [{"student": "x", "round": "r2", "step": 5, "loss": 1.0, "compared_tokens": 0, "truncated_share": 1.0}]
    for id_, log, missing in (("r1", rows, 2), ("r2", bare, 0)):
        (tmp_path / "logs/x" / id_).mkdir(parents=True)
        write_log(tmp_path / "logs/x" / id_ / "train.csv", log)
        entry = {"tokens": 1, "seconds": 1.0, "steps": len(log), "steps_not_taken": missing}
        write_json(tmp_path / f"work/costs/x-{id_}-train.json", entry)
    write_json(tmp_path / "work/costs/x-r1-score.json", {"tokens": 1, "seconds": 1.0})
    rounds = _rows(connect(tmp_path / "work", tmp_path / "logs", tmp_path), "SELECT * FROM staleness ORDER BY round")
    assert rounds == [
        ("x", "r1", 2, 2, 40, pytest.approx(0.1), 0.4, pytest.approx(0.9), pytest.approx(0.1), 0.5),
        ("x", "r2", 1, 0, 0, None, None, None, None, 1.0),
    ]


def test_unfinished_segments_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host").mkdir(parents=True)
    (tmp_path / "segments/.tmp-1-aaaaaaaa-host/index.parquet").write_bytes(b"half")
    connection = connect(tmp_path, tmp_path, tmp_path)
    assert _rows(connection, "SELECT count(*) FROM store") == [(0,)]
    assert _rows(connection, "SELECT count(*) FROM scores") == [(0,)]


def test_student_and_round_are_the_directories_of_a_file(run: duckdb.DuckDBPyConnection) -> None:
    places = [("", "corpus"), ("small", "r1")]
    for name in ("rollouts", "scores"):
        assert _rows(run, f"SELECT DISTINCT student, round FROM {name} ORDER BY ALL") == places


def test_tokens_have_the_student_and_the_checkpoint_of_their_file(tmp_path: Path) -> None:
    token = TokenComparison(
        prompt_id="p",
        position=3,
        token=" a",
        forward_kl=0.5,
        reverse_kl=0.25,
        teacher_tokens=[" the", " a"],
        teacher_p=[0.5, 0.25],
        student_tokens=[" a"],
        student_p=[1.0],
    )
    write_rows(tmp_path / "evaluations/small-init.parquet", [token], COMPARISON)
    assert _rows(connect(tmp_path, tmp_path, tmp_path), "SELECT * FROM tokens") == [
        ("p", 3, " a", 0.5, 0.25, [" the", " a"], [0.5, 0.25], [" a"], [1.0], "small", "init")
    ]


def test_completions_stand_beside_those_of_the_teacher(tmp_path: Path) -> None:
    folder, prompts = Layout(tmp_path).prompt_metrics("teacher").parent, [prompt("p", [1]), prompt("q", [1])]
    for name, texts in {"teacher": ("Yes.", "No."), "small-init": ("?", "!"), "small-r1": ("Yes", "None.")}.items():
        write_measurements(folder / f"{name}.parquet", prompts, texts, {})
    work = Layout(tmp_path).work
    assert _rows(connect(work, work, work), "SELECT * FROM completions ORDER BY ALL") == [
        ("small", "init", "p", "?", "Yes."),
        ("small", "init", "q", "!", "No."),
        ("small", "r1", "p", "Yes", "Yes."),
        ("small", "r1", "q", "None.", "No."),
    ]


def test_ages(run: duckdb.DuckDBPyConnection) -> None:
    rows = _rows(run, "SELECT segment, round(age_hours, 1), sequences, positions, used FROM ages ORDER BY segment")
    assert rows == [("one", 0.0, 2, 5, True), ("two", 2.0, 1, 3, False)]
    ((apart,),) = _rows(run, "SELECT epoch(max(written) - min(written)) FROM ages")
    assert apart == pytest.approx(7200, abs=60)


def test_coverage(run: duckdb.DuckDBPyConnection) -> None:
    assert _rows(run, "SELECT * FROM coverage ORDER BY ALL") == [("", "corpus", 1, 1, 0), ("small", "r1", 3, 2, 1)]


def test_tails_are_weighted_by_positions(tmp_path: Path) -> None:
    tails = [(0.5, 6), (0.125, 1), (0.25, 2), (0.875, 1), (0.99, 0)]
    rows = [{"source": "student", "positions": n, "mean_tail": tail, "mean_entropy": 1.0} for tail, n in tails]
    _write_index(tmp_path / "small/r1/segment/index.parquet", rows)
    got = _rows(connect(tmp_path, tmp_path, tmp_path), "SELECT * FROM tails ORDER BY measure")
    assert got == [
        ("small", "r1", "student", "entropy", 4, 10, 1.0, 1.0, 1.0),
        ("small", "r1", "student", "tail", 4, 10, 0.45, 0.5, 0.5),
    ]


def test_disagreement_compares_the_log_probs_of_student_and_teacher(run: duckdb.DuckDBPyConnection) -> None:
    assert _rows(run, "SELECT * FROM disagreement ORDER BY gap DESC") == [
        ("small", "r1", "pa", "a", 2, -1.5, -4.0, 2.5, 0.5),
        ("small", "r1", "pb", "b", 3, -0.5, -0.25, -0.25, 0.5),
    ]


def test_costs_by_stage_student_and_round(run: duckdb.DuckDBPyConnection) -> None:
    assert _rows(run, "SELECT stage, student, round FROM costs ORDER BY ALL") == [
        ("evaluate", "", ""),
        ("evaluate", "small", "init"),
        ("evaluate", "small", "r1"),
        ("generate", "", "corpus"),
        ("init", "small", "init"),
        ("prepare", "", ""),
        ("rollout", "small", "r1"),
        ("score", "", "corpus"),
        ("score", "small", "r1"),
        ("teacher", "", ""),
        ("train", "small", "r1"),
    ]
    assert _rows(run, "SELECT * EXCLUDE (student, round) FROM costs WHERE round = 'corpus' ORDER BY ALL") == [
        ("generate", 10, 1.5, None, None, None, None, None),
        ("score", 10, 1.5, 5, 2, 70, None, None),
    ]


def test_rounds_cost(run: duckdb.DuckDBPyConnection) -> None:
    assert _rows(run, "SELECT * FROM rounds_cost ORDER BY ALL") == [
        ("", "corpus", 3.0, 1.5, 1.5, None, None, 10, 10, None, None, 3, 2),
        ("small", "init", 3.0, None, None, None, 1.5, None, None, None, 10, None, None),
        ("small", "r1", 6.0, 1.5, 1.5, 1.5, 1.5, 10, 10, 10, 10, 3, 2),
    ]


def test_duplicates(run: duckdb.DuckDBPyConnection) -> None:
    assert _rows(run, "SELECT * FROM duplicates ORDER BY ALL") == [
        ("", "corpus", 1, 1, 2, 2, 2),
        ("small", "r1", 2, 1, 5, 2, 2),
    ]


def test_rows_can_be_written_as_json(run: duckdb.DuckDBPyConnection) -> None:
    for name in VIEWS:
        assert json.dumps(_rows(run, f"SELECT * FROM {name}"), default=str)


@pytest.mark.parametrize("sql", ["SELEC 1", "SELECT * FROM nothing", "SELECT 1 +", "SELECT 'a'::INT"])
def test_an_error_in_sql_is_one_line(tmp_path: Path, sql: str) -> None:
    connection = connect(tmp_path, tmp_path, tmp_path)
    with pytest.raises(UserError, match="query: expected SQL that DuckDB runs") as caught:
        query(connection, sql)
    assert "\n" not in str(caught.value)
