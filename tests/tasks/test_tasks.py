"""A conformance suite for every task of the registry. A new task adds a line to SETTINGS."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.metric_titles import MEASURES
from pipeline.runtime.config import parse
from pipeline.runtime.errors import ParameterError
from pipeline.tasks import TASKS, Case, Judged, Task, find_task


def docstring_settings(root: Path) -> dict[str, Any]:
    return {"train_packages": ["json", "rouge_score"], "heldout_packages": ["email"], "min_chars": 60, "max_chars": 900}


def table_settings(
    root: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **columns: Any
) -> dict[str, Any]:
    for split, rows in (("train", train), ("test", test)):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    place = {"data": str(root), "config": None, "revision": None, "train_split": "train", "heldout_split": "test"}
    return place | columns


def gsm8k_settings(root: Path) -> dict[str, Any]:
    rows = [{"q": f"What is {n} + {n}?", "a": f"Twice {n}. #### {2 * n}"} for n in range(10)]
    return table_settings(root, rows[:8], rows[6:], question_column="q", answer_column="a")


def arithmetic_settings(root: Path) -> dict[str, Any]:
    sizes = {"min_steps": 1, "max_steps": 3, "max_operand": 20, "max_value": 100}
    operations = ["add", "subtract", "multiply", "divide"]
    return {"seed": 0, "problems": 200, "heldout_share": 0.2, **sizes, "operations": operations}


def translation_settings(root: Path) -> dict[str, Any]:
    rows = [{"en": f"There are {n} dogs on the grass.", "de": f"Da sind {n} Hunde im Gras."} for n in range(10)]
    return table_settings(root, rows[:8], rows[6:], source_column="en", target_column="de")


def summarisation_settings(root: Path) -> dict[str, Any]:
    rows = [{"d": [f"Dog {n} runs.", "It barks."], "s": [f"A dog {n} barks.", "Barking dog."]} for n in range(10)]
    return table_settings(root, rows[:8], rows[6:], document_column="d", summary_column="s")


def instruction_settings(root: Path) -> dict[str, Any]:
    rows = [{"i": f"Say word {n}.", "x": "" if n % 2 else "Loudly", "o": f"Word {n}!"} for n in range(10)]
    columns = {"instruction_column": "i", "input_column": "x", "output_column": "o", "messages_column": None}
    return table_settings(root, rows[:8], rows[6:], **columns)


OF_100 = {"bleu", "chrf"}
SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "arithmetic": arithmetic_settings,
    "docstrings": docstring_settings,
    "gsm8k": gsm8k_settings,
    "instructions": instruction_settings,
    "summarisation": summarisation_settings,
    "translation": translation_settings,
}


@pytest.fixture(params=sorted(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cases_of(name: str, root: Path) -> list[Case]:
    task = TASKS[name]
    return list(task.cases(parse(task.settings, SETTINGS[name](root), where="task.settings")))


def judged(task: Task, texts: list[str], references: Sequence[Sequence[str]]) -> list[Judged]:
    pairs = zip(texts, references, strict=True)
    return [Judged(text=text, references=right, score=task.score(text, right)) for text, right in pairs]


def test_settings_are_a_frozen_dataclass_without_defaults(name: str) -> None:
    """`train_on` has a default, because it says nothing about data without conversations."""
    settings = TASKS[name].settings
    assert is_dataclass(settings)
    assert settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert {field.name for field in fields(settings) if field.default is not field.default_factory} <= {"train_on"}


def test_cases_are_deterministic_and_complete(name: str, tmp_path: Path) -> None:
    cases = cases_of(name, tmp_path)
    assert cases == cases_of(name, tmp_path)
    assert {case.split for case in cases} == {"train", "heldout"}
    for case in cases:
        assert tuple(case.fields) == TASKS[name].fields
        assert any(text.strip() for text in case.fields.values())
        assert case.references
        assert all(text.strip() for text in case.references)


def test_no_id_and_no_question_occurs_twice_within_or_across_splits(name: str, tmp_path: Path) -> None:
    cases = cases_of(name, tmp_path)
    assert len({case.case_id for case in cases}) == len(cases)
    assert len({tuple(case.fields.items()) for case in cases}) == len(cases)


def test_scores_lie_between_0_and_1_and_any_reference_scores_1(name: str, tmp_path: Path) -> None:
    task, cases = TASKS[name], cases_of(name, tmp_path)
    for case in cases[:20]:
        answers = [*case.references, cases[0].references[0]]
        assert all(task.score(answer, answers) == pytest.approx(1.0) for answer in answers)
        assert task.score("", case.references) == 0.0
        assert all(0.0 <= task.score(other.references[0], case.references) <= 1.0 for other in cases[:20])


def test_the_references_reach_the_top_of_every_metric_and_silence_the_bottom(name: str, tmp_path: Path) -> None:
    task, cases = TASKS[name], cases_of(name, tmp_path)
    references = [case.references for case in cases]
    best = task.metrics(judged(task, [texts[0] for texts in references], references))
    assert task.headline in best
    for metric, value in best.items():
        assert value == pytest.approx(100.0 if metric in OF_100 else 1.0)
    assert task.metrics(judged(task, [""] * len(cases), references)) == dict.fromkeys(best, 0.0)


def test_every_metric_has_a_title_in_the_report(name: str) -> None:
    assert set(TASKS[name].metrics(judged(TASKS[name], ["a"], [["a 1"]]))) <= set(MEASURES)


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    assert find_task("gsm8k") is TASKS["gsm8k"]
    with pytest.raises(ParameterError) as caught:
        find_task("gsm9k")
    known = "arithmetic, docstrings, gsm8k, instructions, summarisation, translation"
    assert str(caught.value) == f"task.name: expected one of: {known}, got 'gsm9k'; fix params.yaml"
