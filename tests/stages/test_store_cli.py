"""stages.cli.store: import, export, verify --rescore and forecast, in a checkout with a tiny real teacher."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.hashing import model_fingerprint
from pipeline.core.types import ScoredSequence
from pipeline.rollout.collect import RolloutParams
from pipeline.runtime.config import section
from pipeline.runtime.files import write_json, write_rows
from pipeline.runtime.layout import round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.score import ScoringParams
from pipeline.store.codecs import CODECS, stored_fingerprint
from pipeline.store.segment_writer import write_segment
from pipeline.store.store import Store
from pipeline.store_admin.integrity import segments
from schemas.manifest import SegmentHeader
from schemas.rollout import ROLLOUT
from stages import _stage as command
from stages._stage import run
from stages.cli.main import commands
from tests.factories import rollout
from tests.scores import header

ROOT = Path(__file__).parents[2]
VOCAB = 260
STORE = Path(".store")


@pytest.fixture
def sequences(tmp_path: Path, teacher_dir: Path, monkeypatch: pytest.MonkeyPatch) -> list[ScoredSequence]:
    """A checkout after round 1: three rollouts, two of them scored into its store by its teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STILLROOM_STORE", raising=False)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    for name in ("params.yaml", "rounds.yaml"):
        shutil.copy(ROOT / name, name)
    params = Path("params.yaml").read_text(encoding="utf-8").replace("precision: auto", "precision: float32")
    Path("params.yaml").write_text(params, encoding="utf-8")
    shutil.copytree(teacher_dir, "work/teacher")
    p = section(Path("params.yaml"), ScoringParams, "scoring")
    engine = HFScorer(Path("work/teacher"), precision="float32", vocab=VOCAB, truncation=p.truncation, batch_size=1)
    rollouts = [rollout(f"r{length}", list(range(length))) for length in (5, 9, 12)]
    write_rows(Path("work/small/r1/rollouts.parquet"), rollouts, ROLLOUT)
    scores = engine.score(rollouts, lambda count: None)
    scored = [ScoredSequence(rollout=rollout, scores=own) for rollout, own in zip(rollouts, scores, strict=True)]
    Store(root=STORE).publish(scored[:2], written_by(p), np.arange(VOCAB))
    return scored


def written_by(p: ScoringParams) -> SegmentHeader:
    """Return the header that the score stage writes into its segments."""
    teacher = model_fingerprint(Path("work/teacher"))
    engine = scorer_fingerprint(teacher, precision="float32", truncation=p.truncation)
    scorer = stored_fingerprint(engine, CODECS["sqrt8"])
    return header(VOCAB, scorer=scorer, teacher=teacher, tokenizer="t", scoring={"support": p.truncation.identity()})


def params() -> ScoringParams:
    return section(Path("params.yaml"), ScoringParams, "scoring")


def stillroom(monkeypatch: pytest.MonkeyPatch, *args: str) -> Any:
    """Return the exit code of `stillroom store`."""
    monkeypatch.setattr(sys, "argv", ["stillroom", "store", *args])
    with pytest.raises(SystemExit) as caught:
        run(commands)
    return caught.value.code


def test_import_takes_segments_and_counts(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Path("elsewhere/work/small/r1/segment")
    write_segment(theirs, sequences[1:], written_by(params()), np.arange(VOCAB))
    assert stillroom(monkeypatch, "import", "--json", "elsewhere") == 0
    assert json.loads(capsys.readouterr().out) == {"imported": 1, "known": 0, "damaged": 0, "positions": 21}
    assert stillroom(monkeypatch, "import", "elsewhere") == 0
    assert capsys.readouterr().out == "0 imported, 1 known, 0 damaged, 0 positions into .store\n"
    assert len(segments(STORE)) == 2


def test_import_reports_damaged_segments_and_fails(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Path("elsewhere/segment")
    write_segment(theirs, sequences[2:], written_by(params()), np.arange(VOCAB))
    (theirs / "tokens.parquet").unlink()
    assert stillroom(monkeypatch, "import", "elsewhere") == 1
    out, err = capsys.readouterr()
    assert out == "0 imported, 0 known, 1 damaged, 0 positions into .store\n"
    assert "elsewhere/segment/tokens.parquet: expected a file, got nothing; " in err


def test_import_takes_raw_top_k(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"input_ids": [1, 2, 3], "token_ids": [[5, 2], [3, 4]], "top_values": [[-1.0, -2.0], [-0.5, -3.0]]}
    Path("theirs").mkdir()
    pq.write_table(pa.Table.from_pylist([row, row | {"input_ids": [4, 5, 6]}]), "theirs/data_0.parquet")
    origin = ("--tokenizer", "work/teacher", "--teacher", "big")
    assert stillroom(monkeypatch, "import", "theirs") == 1
    assert "got not both; add --tokenizer DIRECTORY --teacher NAME" in capsys.readouterr().err
    assert stillroom(monkeypatch, "import", "theirs", *origin) == 1
    assert "row 0: expected labels, or the prompt's length, got neither" in capsys.readouterr().err
    assert stillroom(monkeypatch, "import", "theirs", *origin, "--prompt-tokens", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"sequences": 2, "positions": 4}
    assert len(segments(STORE)) == 2


def test_import_of_nothing_is_a_mistake(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert stillroom(monkeypatch, "import", "empty") == 1
    assert capsys.readouterr().err == (
        "error: empty: expected sealed segments or Parquet files, got neither; correct the path\n"
    )


def test_export_writes_one_file_per_segment_which_import_reads(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(root=STORE).publish(sequences[2:], written_by(params()), np.arange(VOCAB))
    first, other = segments(STORE)
    assert stillroom(monkeypatch, "export", "out", "--segment", other.name[:9], "--json") == 0
    assert json.loads(capsys.readouterr().out) == [f"out/{other.name}.parquet"]
    assert stillroom(monkeypatch, "export", "out") == 0
    assert capsys.readouterr().out == "2 segments to out\n"
    assert sorted(file.stem for file in Path("out").iterdir()) == [first.name, other.name]
    monkeypatch.setenv("STILLROOM_STORE", "another")
    assert stillroom(monkeypatch, "import", "out", "--tokenizer", "work/teacher", "--teacher", "t") == 0
    assert capsys.readouterr().out == "3 sequences, 26 positions into another\n"


def test_verify_runs_the_teacher_again(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = replace(written_by(params()), scorer="another")
    Store(root=STORE).publish(sequences[2:], foreign, np.arange(VOCAB))
    assert stillroom(monkeypatch, "verify", "--rescore", "5") == 0
    out = capsys.readouterr().out
    assert "2 sequences, 14 positions" in out
    assert "1 segments not compared" in out
    assert out.endswith("the teacher agrees\n")
    assert stillroom(monkeypatch, "verify", "--rescore", "1", "--json") == 0
    agreement = json.loads(capsys.readouterr().out)
    assert (agreement["sequences"], agreement["holds"], agreement["unchecked_segments"]) == (1, True, 1)


def test_verify_fails_where_the_teacher_disagrees(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = sequences[2].scores
    top = replace(scores.top, logp=scores.top.logp[::-1])
    swapped = [replace(sequences[2], scores=replace(scores, top=top))]
    Store(root=STORE).publish(swapped, written_by(params()), np.arange(VOCAB))
    assert stillroom(monkeypatch, "verify") == 0
    assert stillroom(monkeypatch, "verify", "--rescore", "3") == 1
    assert "the teacher DISAGREES" in capsys.readouterr().out


def test_verify_reports_that_there_is_nothing_to_compare(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(
        text.replace("threshold: 0.006\n    max_entries", "threshold: 0.01\n    max_entries"), encoding="utf-8"
    )
    assert stillroom(monkeypatch, "verify", "--rescore", "3") == 1
    assert "got 1 segments, none of them with such; run `make repro`" in capsys.readouterr().err


def test_forecast_estimates_every_score_stage(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(Path("work/costs/small-r1-score.json"), {"tokens": 50, "seconds": 5.0, "positions": 14})
    assert stillroom(monkeypatch, "forecast", "--json") == 0
    corpus, first, *later = json.loads(capsys.readouterr().out)
    assert (corpus["name"], corpus["known"], corpus["positions"] > 0) == ("corpus", 0, True)
    assert (first["known"], first["positions"], first["tokens"], first["seconds"]) == (14, 12, 14, pytest.approx(1.4))
    rounds, rollout = round_list(read_yaml(Path("rounds.yaml"))), section(Path("params.yaml"), RolloutParams, "rollout")
    completions = rollout.prompts * rollout.samples_per_prompt
    assert [stage["name"] for stage in later] == [f"small {round_['id']}" for round_ in rounds[1:]]
    assert {stage["positions"] for stage in later} == {round(completions * 26 / 3)}
    assert stillroom(monkeypatch, "forecast") == 0
    out = capsys.readouterr().out
    assert "| in all " in out
    assert f"small r2: {completions} completions of 8.7 tokens, as in small r1; " in out


def test_forecast_scores_a_sample_and_the_store_keeps_it(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(STORE)
    Path("work/prompts").mkdir()
    np.save("work/prompts/ranks.npy", np.arange(VOCAB))
    assert stillroom(monkeypatch, "forecast", "--sample", "2", "--json") == 0
    _, first, *_ = json.loads(capsys.readouterr().out)
    assert first["known"] in (5 + 12, 5 + 9, 9 + 12)
    assert first["positions"] == 26 - first["known"]
    assert "1 segments with some of its own sequences" in first["basis"]
    (held,) = segments(STORE)
    assert stillroom(monkeypatch, "forecast", "--sample", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1] == first  # as many are there already
    assert segments(STORE) == [held]
    assert stillroom(monkeypatch, "forecast", "--sample", "9", "--json") == 0
    assert json.loads(capsys.readouterr().out)[1]["known"] == 26


def test_a_sample_needs_a_teacher(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("work/teacher")
    assert stillroom(monkeypatch, "forecast", "--sample", "2") == 1
    err = capsys.readouterr().err
    assert "error: work/teacher: expected a model directory, got nothing" in err


def test_forecast_works_before_anything_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    monkeypatch.delenv("STILLROOM_STORE", raising=False)
    assert stillroom(monkeypatch, "forecast") == 1
    assert "params.yaml: expected a file, got nothing" in capsys.readouterr().err
    for name in ("params.yaml", "rounds.yaml"):
        shutil.copy(ROOT / name, name)
    assert stillroom(monkeypatch, "forecast") == 0
    assert "| unknown | unknown |" in " ".join(capsys.readouterr().out.split())
    Path("rounds.yaml").write_text("rounds: []\ncheckpoints: []\n", encoding="utf-8")
    assert stillroom(monkeypatch, "forecast") == 1
    assert "run `stillroom plan`" in capsys.readouterr().err


def test_forecast_goes_past_a_damaged_manifest(
    sequences: list[ScoredSequence], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (broken,) = segments(STORE)
    (broken / "manifest.json").write_text("{", encoding="utf-8")
    assert stillroom(monkeypatch, "forecast") == 1
    out, err = capsys.readouterr()
    assert "| in all " in out
    assert err.startswith(f"error: {broken}/manifest.json: expected ")
