"""Tests of summaries in the shapes of published sets, and of ROUGE with several references."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.metrics.rouge import rouge, rouge_l
from pipeline.tasks.base import Case, Judged
from pipeline.tasks.summarisation import Summarisation, SummarisationSettings


def cases(data: Path, document: str, summary: str, heldout: str = "test") -> list[Case]:
    settings = SummarisationSettings(
        data=str(data),
        config=None,
        revision=None,
        train_split="train",
        heldout_split=heldout,
        document_column=document,
        summary_column=summary,
    )
    return Summarisation().cases(settings)


def write(root: Path, **splits: list[dict[str, Any]]) -> None:
    for name, rows in splits.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def summary_of(cases: list[Case]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(case.split, case.fields["document"], case.references) for case in cases]


def test_scitldr_has_sentences_and_several_summaries(tmp_path: Path) -> None:
    row = {"source": ["One.", "Two."], "target": ["Both.", " All. ", ""], "paper_id": "x"}
    write(tmp_path, test=[row], train=[{"source": ["Three."], "target": ["It."]}])
    expected = [("heldout", "One. Two.", ("Both.", "All.")), ("train", "Three.", ("It.",))]
    assert summary_of(cases(tmp_path, "source", "target")) == expected


def test_xsum_and_cnn_have_texts_and_empty_rows_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        test=[{"article": "A b.", "highlights": "A .\nB ."}],
        train=[{"article": "", "highlights": "C"}, {"article": "D", "highlights": "d"}],
    )
    expected = [("heldout", "A b.", ("A .\nB .",)), ("train", "D", ("d",))]
    assert summary_of(cases(tmp_path, "article", "highlights")) == expected


def test_dialogsum_repeats_a_dialogue_for_each_summary(tmp_path: Path) -> None:
    rows = [{"dialogue": "#Person1#: Hi", "summary": f"Greeting {letter}"} for letter in "abc"]
    write(tmp_path, test=rows, train=[{"dialogue": "#Person1#: Bye", "summary": "Parting"}, rows[0]])
    assert summary_of(cases(tmp_path, "dialogue", "summary")) == [
        ("heldout", "#Person1#: Hi", ("Greeting a", "Greeting b", "Greeting c")),
        ("train", "#Person1#: Bye", ("Parting",)),
    ]


def test_rouge_by_hand() -> None:
    """3 of 4 words, 1 of 3 pairs and "a b d" in common with a reference of 4 words."""
    assert rouge("a b c d", ["a b d e"]) == pytest.approx({"rouge_1": 3 / 4, "rouge_2": 1 / 3, "rouge_l": 3 / 4})


def test_each_measure_takes_its_best_reference() -> None:
    reversed_, partial = rouge("a b c d", ["d c b a"]), rouge("a b c d", ["a b x y"])
    combined = rouge("a b c d", ["d c b a", "a b x y"])
    assert combined == {name: max(reversed_[name], partial[name]) for name in reversed_}
    assert reversed_["rouge_1"] > partial["rouge_1"]
    assert reversed_["rouge_2"] < partial["rouge_2"]
    assert rouge_l("a b c d", ["d c b a", "a b x y"]) == combined["rouge_l"]


def test_metrics_are_means_over_the_texts() -> None:
    task = Summarisation()
    pairs = [("a b c d", ["a b d e"]), ("x", ["y"])]
    metrics = task.metrics(
        [Judged(text=text, references=right, score=task.score(text, right)) for text, right in pairs]
    )
    assert metrics == pytest.approx({"rouge_1": 3 / 8, "rouge_2": 1 / 6, "rouge_l": 3 / 8})


def test_the_published_set_has_several_references() -> None:
    data = Path(os.environ.get("STILLROOM_DATA", Path(__file__).parents[2] / "../shared/data")) / "scitldr"
    if not data.is_dir():
        pytest.skip(f"no data in {data}; STILLROOM_DATA names another place")
    heldout = [case for case in cases(data, "source", "target", "dev") if case.split == "heldout"]
    assert 600 < len(heldout) <= 619
    assert max(len(case.references) for case in heldout) == 4
