"""pipeline.lineage.describe: the description of a model for people and for programs."""

import json
import re

from pipeline.lineage.describe import describe_json, describe_text
from pipeline.lineage.dvc_index import OutputRecord
from tests.factories import lineage, lineage_round, model_source

COSTS = {
    "small-r1-rollout": {"seconds": 1.0, "tokens": 3, "commit": None, "dirty": None},
    "small-r1-score": {"seconds": 2.0, "tokens": 9, "positions": 50, "positions_reused": 20, "commit": None},
    "small-r1-train": {"seconds": 4.0, "tokens": 5, "commit": "c" * 40, "dirty": True},
}
RECORD = OutputRecord(stages=["train"], parameters={"seed": 0}, code="d" * 32, md5="e.dir")


def test_the_rounds_have_tokens_seconds_and_code() -> None:
    text = describe_text(lineage(lineage_round()), COSTS, RECORD, None)
    (row,) = [line for line in text.splitlines() if line.startswith("| r1 ")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *["r1", "1-4", "1,234", "50", "30", "7.0", "cccccccccccc, altered"]
    ]
    for fact in ("tokenizer-p", "openai/gsm8k", "prompts-prin", "teacher-prin", "small/r1 aaaaaaaaaaaa (50 positions)"):
        assert fact in text
    assert "  seed: 0" in text
    assert re.search(r"parameters\.objective\.temperature +1\.0\n", text)
    assert "warning" not in text


def test_a_model_outside_its_project_has_unknown_costs() -> None:
    text = describe_text(lineage(lineage_round()), {}, None, None)
    (row,) = [line for line in text.splitlines() if line.startswith("| r1 ")]
    assert row.count("unknown") == 3
    assert "dvc.lock: no record of this directory" in text


def test_an_earlier_run_and_its_teacher_are_described() -> None:
    old = lineage(lineage_round("r7", teacher="old-print"), teacher=model_source("old"))
    student = lineage(lineage_round(), earlier=old)
    text = describe_text(student, COSTS, None, "r1 is worse")
    assert text.index("| r7 ") < text.index("| r1 ")
    assert "warning: student small: first tuned on data of teacher old" in text
    described = json.loads(json.dumps(describe_json(student, COSTS, RECORD, "r1 is worse")))
    assert described["earlier"]["rounds"][0]["id"] == "r7"
    assert described["costs"]["r1"]["train"]["seconds"] == 4.0
    assert text.endswith(f"\nwarning: {described['warning']}\nwarning: {described['worse']}")
    assert described["dvc_lock"]["parameters"] == {"seed": 0}


def test_a_teacher_has_a_lineage_too() -> None:
    assert "none: this is a teacher" in describe_text(lineage(student=None, start=None, layers=None), {}, None, None)
