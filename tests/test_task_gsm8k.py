"""pipeline.tasks.gsm8k and pipeline.tasks.rows: reading answers, and reading tables."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.tasks.base import Case
from pipeline.tasks.gsm8k import Gsm8k, Gsm8kSettings

TRAIN = [
    {"question": "Six and six?", "answer": "6 + 6 = <<6+6=12>>12.\n#### 12"},
    {"question": "Common?", "answer": "#### 1"},
]
TEST = [{"question": "Common?", "answer": "#### 1"}, {"question": "A {brace}?", "answer": "#### 1,000"}]


def settings(data: Path | str) -> Gsm8kSettings:
    return Gsm8kSettings(
        data=str(data),
        config=None,
        train_split="train",
        heldout_split="test",
        question_column="question",
        answer_column="answer",
    )


def cases(chosen: Gsm8kSettings) -> list[Case]:
    return list(Gsm8k().cases(chosen))


def write(root: Path, suffix: str) -> None:
    for name, rows in (("train", TRAIN), ("test", TEST)):
        file = root / f"{name}{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        elif suffix == ".csv":
            lines = ['"{question}","{answer}"'.format(**row) for row in rows]
            file.write_text("\n".join(["question,answer", *lines]) + "\n")
        else:
            file.write_text(pa.Table.from_pylist(rows).to_pandas().to_json(orient="records", lines=True))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_directory_is_read_and_left_as_it_was(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, suffix)
    found = cases(settings(tmp_path))
    assert [(case.split, case.fields["question"], case.references) for case in found] == [
        ("heldout", "Common?", ("#### 1",)),
        ("heldout", "A {brace}?", ("#### 1,000",)),
        ("train", "Six and six?", ("6 + 6 = 12.\n#### 12",)),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"test{suffix}", f"train{suffix}"])


def test_a_wrong_column_lists_those_that_exist(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl")
    with pytest.raises(DataError) as caught:
        cases(replace(settings(tmp_path), answer_column="solution"))
    assert str(caught.value) == (
        f"{tmp_path} (test) row 0: expected a column 'solution', got columns question, answer; mend task.settings"
    )


def test_a_missing_split_lists_the_files_that_exist(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl")
    with pytest.raises(DataError) as caught:
        cases(replace(settings(tmp_path), heldout_split="dev"))
    assert str(caught.value) == (
        f"{tmp_path}: expected one of: dev.jsonl, dev.parquet, dev.csv, got test.jsonl, train.jsonl; "
        "correct the splits in task.settings"
    )


def test_an_answer_without_a_number_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"question": "Who?", "answer": "Nobody"}\n')
    with pytest.raises(DataError, match=r"expected an answer with a number, got 'Nobody'; mend"):
        cases(settings(tmp_path))
    (tmp_path / "test.jsonl").write_text('{"question": "Who?", "answer": 3}\n')
    with pytest.raises(DataError, match=r"\(test\) row 0\.answer: expected text, got int; mend"):
        cases(settings(tmp_path))


def test_a_file_that_is_empty_or_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match=r"expected rows, got none"):
        cases(settings(tmp_path))
    (tmp_path / "test.jsonl").write_text('{"question": "Who?", "answer\n')
    with pytest.raises(DataError) as caught:
        cases(settings(tmp_path))
    assert "JSON parse error" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_the_hub_does_not_give_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        cases(settings("no-such-owner/no-such-set"))
    assert str(caught.value).startswith("no-such-owner/no-such-set (test): expected rows of a directory's file or")
    assert "\n" not in str(caught.value)


def test_the_published_set_reads_whole() -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[1] / "../shared/data")) / "gsm8k"
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    found = cases(settings(data))
    assert sum(case.split == "heldout" for case in found) == 1319
    assert 7400 < sum(case.split == "train" for case in found) <= 7473
    assert not any("<<" in case.references[0] for case in found)
