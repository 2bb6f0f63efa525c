"""Tests of grade-school maths with worked answers."""

import json
import os
from pathlib import Path

import pytest

from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Case, Judged
from pipeline.tasks.gsm8k import Gsm8k, Gsm8kSettings


def cases(data: Path) -> list[Case]:
    settings = Gsm8kSettings(
        data=str(data),
        config=None,
        revision=None,
        train_split="train",
        heldout_split="test",
        question_column="question",
        answer_column="answer",
    )
    return Gsm8k().cases(settings)


def write(root: Path, split: str, *rows: tuple[str, str]) -> None:
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in rows]
    (root / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def test_notes_are_left_out_of_answers_and_heldout_questions_of_training(tmp_path: Path) -> None:
    write(tmp_path, "test", ("Common?", "#### 1"), ("A {brace}?", "#### 1,000"))
    write(tmp_path, "train", ("Six and six?", "6 + 6 = <<6+6=12>>12.\n#### 12"), ("Common?", "#### 1"))
    assert [(case.split, case.fields["question"], case.references) for case in cases(tmp_path)] == [
        ("heldout", "Common?", ("#### 1",)),
        ("heldout", "A {brace}?", ("#### 1,000",)),
        ("train", "Six and six?", ("6 + 6 = 12.\n#### 12",)),
    ]


def test_an_answer_without_a_number_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "test", ("Who?", "Nobody"))
    with pytest.raises(DataError, match=r"\(test\) row 0: expected an answer with a number, got 'Nobody'; fix"):
        cases(tmp_path)


def test_the_score_is_that_of_the_final_number() -> None:
    assert Gsm8k().score("That makes $1,000.00.", ["#### 1000"]) == 1.0
    assert Gsm8k().score("2", ["#### 2", "#### 9"]) == 1.0
    assert Gsm8k().score("3", ["#### 4"]) == 0.0
    judged = [Judged(text="", references=[], score=score) for score in (1.0, 1.0, 0.0, 0.0)]
    assert Gsm8k().metrics(judged) == {"exact_match": 0.5}


def test_the_published_set_reads_whole() -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[2] / "../shared/data")) / "gsm8k"
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    questions = cases(data)
    assert sum(case.split == "heldout" for case in questions) == 1319
    assert 7400 < sum(case.split == "train" for case in questions) <= 7473
    assert not any("<<" in case.references[0] for case in questions)
