"""Rows of the views that the page shows, as dictionaries for charts and tables.

Long logs are thinned to POINTS rows per student, each the mean of consecutive steps, so that the page stays small.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Row = dict[str, Any]
Query = Callable[
    [str], tuple[list[str], list[tuple[Any, ...]]]
]  # SQL -> names and rows, as `views.query` with its views
POINTS = 400

_TRAINING = "SELECT * FROM runs ORDER BY student, step"
_COSTS = "SELECT * FROM costs ORDER BY student, round, stage"
_TAILS = "SELECT * FROM tails ORDER BY student, round, source, measure"
_SEGMENTS = "SELECT * FROM segments ORDER BY student, round"
_PROMPTS = "SELECT * FROM prompts WHERE prompt_id IN (SELECT prompt_id FROM tokens)"
_TOKENS = "SELECT * FROM tokens ORDER BY student, round, prompt_id, position"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRows:
    """Rows of the views, as dictionaries by column; a list is empty where a run has no such rows."""

    training: list[Row]
    rounds: list[Row]  # means and last step of each round's training
    costs: list[Row]
    tails: list[Row]
    segments: list[Row]
    tokens: list[Row]
    prompts: dict[str, Row]  # of the tokens, by id


def query_views(query: Query, students: Sequence[str], rounds: Sequence[str]) -> ViewRows:
    """Return the rows of these students and rounds, without those that earlier schedules left."""
    names, places = {"", *students}, {"", "corpus", "init", *rounds}

    def select(sql: str) -> list[Row]:
        columns, values = query(sql)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        return [row for row in rows if row.get("student", "") in names and row.get("round", "") in places]

    training = select(_TRAINING)
    return ViewRows(
        training=thinned(training),
        rounds=by_round(training),
        costs=select(_COSTS),
        tails=select(_TAILS),
        segments=select(_SEGMENTS),
        tokens=select(_TOKENS),
        prompts={row["prompt_id"]: row for row in select(_PROMPTS)},
    )


def thinned(rows: Sequence[Row], points: int = POINTS) -> list[Row]:
    """Return at most `points` rows per student: means over consecutive steps, with the number of the last step."""
    means: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row["student"]):
        steps = list(group)
        size = math.ceil(len(steps) / points)
        means += [_mean(steps[start : start + size]) for start in range(0, len(steps), size)]
    return means


def by_round(rows: Sequence[Row]) -> list[Row]:
    """Return a row per student and round: the number of steps, means, and the last step's values as `last_NAME`."""
    rounds = []
    for _, group in groupby(rows, key=lambda row: (row["student"], row["round"])):
        steps = list(group)
        last = {f"last_{key}": value for key, value in steps[-1].items()}
        rounds.append(_mean(steps) | last | {"steps": len(steps)})
    return rounds


def place(row: Row) -> str:
    """Return the student and the round of a row, as far as it has them."""
    return f"{row['student']} {row['round']}".strip()


def _mean(steps: Sequence[Row]) -> Row:
    merged = dict(steps[-1])
    for key, last in merged.items():
        numbers = [row[key] for row in steps if is_number(row[key])]
        if key != "step" and numbers and not isinstance(last, str):
            merged[key] = sum(numbers) / len(numbers)
    return merged


def is_number(value: Any) -> bool:
    """Return whether a value can be drawn and averaged: a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
