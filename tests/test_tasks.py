"""Every task of pipeline.tasks: what the rest of the pipeline relies on. A new task adds a line to SETTINGS."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ParameterError
from pipeline.params import parse
from pipeline.tasks import TASKS, Case, find_task


def docstring_settings(root: Path) -> dict[str, Any]:
    return {"train_packages": ["json", "rouge_score"], "heldout_packages": ["email"], "min_chars": 60, "max_chars": 900}


def gsm8k_settings(root: Path) -> dict[str, Any]:
    for split, numbers in (("train", range(8)), ("test", range(6, 10))):
        rows = [{"q": f"What is {one} + {one}?", "a": f"Twice {one}. #### {2 * one}"} for one in numbers]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data": str(root),
        "config": None,
        "train_split": "train",
        "heldout_split": "test",
        "question_column": "q",
        "answer_column": "a",
    }


SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {"docstrings": docstring_settings, "gsm8k": gsm8k_settings}


@pytest.fixture(params=sorted(TASKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cases_of(name: str, root: Path) -> list[Case]:
    task = TASKS[name]
    return list(task.cases(parse(task.settings, SETTINGS[name](root), where="task.settings")))


def test_settings_are_a_frozen_dataclass_without_defaults(name: str) -> None:
    settings = TASKS[name].settings
    assert is_dataclass(settings)
    assert settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.default is field.default_factory for field in fields(settings))  # both MISSING


def test_cases_are_deterministic_and_complete(name: str, tmp_path: Path) -> None:
    cases = cases_of(name, tmp_path)
    assert cases == cases_of(name, tmp_path)
    assert {case.split for case in cases} == {"train", "heldout"}
    assert all(case.prompt.strip() and case.reference.strip() for case in cases)


def test_no_id_and_no_prompt_occurs_twice_within_or_across_splits(name: str, tmp_path: Path) -> None:
    cases = cases_of(name, tmp_path)
    assert len({case.case_id for case in cases}) == len(cases)
    assert len({case.prompt for case in cases}) == len(cases)


def test_scores_lie_between_0_and_1_and_the_reference_scores_1(name: str, tmp_path: Path) -> None:
    task, cases = TASKS[name], cases_of(name, tmp_path)
    assert task.metric in ("rouge_l", "exact_match")
    for case in cases[:20]:
        assert task.score(case.reference, case.reference) == 1.0
        assert task.score("", case.reference) == 0.0
        assert all(0.0 <= task.score(other.reference, case.reference) <= 1.0 for other in cases[:20])


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    assert find_task("gsm8k") is TASKS["gsm8k"]
    with pytest.raises(ParameterError) as caught:
        find_task("gsm9k")
    assert str(caught.value) == "task.name: expected one of: docstrings, gsm8k, got 'gsm9k'; mend params.yaml"
