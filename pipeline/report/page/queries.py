"""What the page asks the views: plain rows for charts and tables, none where a run has no such thing.

Long logs are thinned to POINTS a student, each the mean of consecutive steps, so that a page stays small.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Row = dict[str, Any]
Ask = Callable[[str], tuple[list[str], list[tuple[Any, ...]]]]  # SQL to names and rows: `views.query`
POINTS = 400

_TRAINING = "SELECT * FROM runs ORDER BY student, step"
_COSTS = "SELECT * FROM costs ORDER BY student, round, stage"
_TAILS = "SELECT * FROM tails ORDER BY student, round, source, measure"
_SEGMENTS = "SELECT * FROM segments ORDER BY student, round"
_PROMPTS = "SELECT * FROM prompts WHERE prompt_id IN (SELECT prompt_id FROM tokens)"
_TOKENS = "SELECT * FROM tokens ORDER BY student, round, prompt_id, position"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Rows of the views, as dictionaries by column."""

    training: list[Row]
    rounds: list[Row]  # how training began and ended in each
    costs: list[Row]
    tails: list[Row]
    segments: list[Row]
    tokens: list[Row]
    prompts: dict[str, Row]  # of the tokens, by id


def find(ask: Ask, students: Sequence[str], rounds: Sequence[str]) -> Findings:
    """Everything about these students and rounds; what earlier schedules left is passed over."""

    def rows(sql: str) -> list[Row]:
        columns, found = ask(sql)
        named = [dict(zip(columns, row, strict=True)) for row in found]
        known = {"", *students}, {"", "corpus", "init", *rounds}
        return [one for one in named if one.get("student", "") in known[0] and one.get("round", "") in known[1]]

    training = rows(_TRAINING)
    return Findings(
        training=thinned(training),
        rounds=by_round(training),
        costs=rows(_COSTS),
        tails=rows(_TAILS),
        segments=rows(_SEGMENTS),
        tokens=rows(_TOKENS),
        prompts={one["prompt_id"]: one for one in rows(_PROMPTS)},
    )


def thinned(rows: Sequence[Row], points: int = POINTS) -> list[Row]:
    """At most `points` rows a student: numbers averaged over consecutive steps, the last step standing for them."""
    found: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row["student"]):
        steps = list(group)
        size = math.ceil(len(steps) / points)
        found += [_mean(steps[start : start + size]) for start in range(0, len(steps), size)]
    return found


def by_round(rows: Sequence[Row]) -> list[Row]:
    """A row a student and round: how many steps it took, its means, and its last step with `last_` before the name."""
    found = []
    for _, group in groupby(rows, key=lambda row: (row["student"], row["round"])):
        steps = list(group)
        last = {f"last_{key}": value for key, value in steps[-1].items()}
        found.append(_mean(steps) | last | {"steps": len(steps)})
    return found


def place(row: Row) -> str:
    """The student and the round that a row belongs to, as far as it does."""
    return " ".join(one for one in (row["student"], row["round"]) if one)


def _mean(steps: Sequence[Row]) -> Row:
    merged = dict(steps[-1])
    for key, last in merged.items():
        numbers = [row[key] for row in steps if is_number(row[key])]
        if key != "step" and numbers and not isinstance(last, str):
            merged[key] = sum(numbers) / len(numbers)
    return merged


def is_number(value: Any) -> bool:
    """True for what can be drawn and averaged; neither None nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
