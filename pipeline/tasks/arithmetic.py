"""Made-up word problems of a few short sentences, with worked steps: what a model of 1-10 M parameters can learn.

"Ann has 12 pens. She buys 5. She loses 8. How many pens does Ann have?" is answered "12 + 5 = 17", "17 - 8 = 9",
"#### 9". Numbers stay whole and at least 1. Guarantee: problem i depends on the seed and on i alone, so asking for more
keeps the earlier ones; a computation (its numbers and operations in their order) occurs once, and its content decides
its split, so that no held-out computation was seen in training in other words. Cost: 20,000 problems in about a
second. Not taken: many phrasings, which make the language harder and not the arithmetic.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Interval

from pipeline.core.hashing import derive_seed, digest
from pipeline.metrics.exact_match import exact_match
from pipeline.runtime.config import Positive
from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Case, Judged, mean

Operation: TypeAlias = Literal["add", "subtract", "multiply", "divide"]
Step: TypeAlias = tuple[Operation, int]

_LARGEST_FACTOR = 9
_PEOPLE = (("Tom", "He"), ("Ann", "She"), ("Ben", "He"), ("Eva", "She"), ("Max", "He"), ("Mia", "She"))
_THINGS = ("pens", "cups", "nuts", "eggs", "figs", "pins", "toys", "keys")
_SENTENCES: dict[Operation, tuple[str, ...]] = {
    "add": ("{they} buys {k}.", "{they} finds {k}.", "{they} gets {k} more."),
    "subtract": ("{they} loses {k}.", "{they} sells {k}.", "{they} gives away {k}."),
    "multiply": ("Then it is {k} times as many.",),
    "divide": ("{they} keeps one of {k} equal parts.",),
}
_SIGNS: dict[Operation, str] = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_RESULTS: dict[Operation, Callable[[int, int], int]] = {
    "add": lambda value, k: value + k,
    "subtract": lambda value, k: value - k,
    "multiply": lambda value, k: value * k,
    "divide": lambda value, k: value // k,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticSettings:
    """`task.settings` of arithmetic; the difficulty is in the last five."""

    seed: int
    """Of the problems; the pipeline's own seed only chooses among them."""
    problems: Positive
    """How many are drawn; a computation that comes up again is left out."""
    heldout_share: Annotated[float, Interval(gt=0, le=1)]
    """Of all computations, in the held-out split."""
    min_steps: Positive
    max_steps: Positive
    max_operand: Positive
    """The largest number in a question; factors and divisors go to 9 at most."""
    max_value: Positive
    """The largest result of a step."""
    operations: tuple[Operation, ...]
    """Those that occur."""

    def __post_init__(self) -> None:
        """Refuse settings without a single problem."""
        _require(self.min_steps <= self.max_steps, "min_steps", f"at most max_steps ({self.max_steps})", self.min_steps)
        _require(
            self.max_operand <= self.max_value, "max_operand", f"at most max_value ({self.max_value})", self.max_operand
        )
        _require(len(self.operations) > 0, "operations", f"some of {', '.join(_SIGNS)}", "none")


class Arithmetic:
    """The right number or not."""

    headline = "exact_match"
    fields = ("question",)
    settings = ArithmeticSettings

    def cases(self, settings: ArithmeticSettings) -> Iterator[Case]:
        """In the order in which they are drawn, both splits mixed."""
        seen: set[tuple[int, tuple[Step, ...]]] = set()
        for number in range(settings.problems):
            chance = random.Random(derive_seed(settings.seed, "arithmetic", number))
            start = chance.randint(1, settings.max_operand)
            steps = _draw_steps(chance, start, settings)
            if steps and (start, steps) not in seen:
                seen.add((start, steps))
                yield _case(chance, start, steps, settings.heldout_share)

    def score(self, completion: str, references: Sequence[str]) -> float:
        """1 when the final numbers are equal, else 0."""
        return exact_match(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The share of completions that end in the right number."""
        return {"exact_match": mean([one.score for one in judged])}


def _draw_steps(chance: random.Random, value: int, settings: ArithmeticSettings) -> tuple[Step, ...]:
    """As many steps as drawn; none when an operation that may come next does not exist."""
    steps: list[Step] = []
    for _ in range(chance.randint(settings.min_steps, settings.max_steps)):
        possible = {one: found for one in settings.operations if (found := _operands(one, value, settings))}
        if not possible:
            return ()
        operation = chance.choice(list(possible))
        k = chance.choice(possible[operation])
        steps.append((operation, k))
        value = _RESULTS[operation](value, k)
    return tuple(steps)


def _operands(operation: Operation, value: int, settings: ArithmeticSettings) -> Sequence[int]:
    """The numbers with which an operation leads from `value` to a whole number from 1 to max_value."""
    largest = min(_LARGEST_FACTOR, settings.max_operand)
    if operation == "add":
        return range(1, min(settings.max_operand, settings.max_value - value) + 1)
    if operation == "subtract":
        return range(1, min(settings.max_operand, value - 1) + 1)
    if operation == "multiply":
        return range(2, min(largest, settings.max_value // value) + 1)
    return [k for k in range(2, largest + 1) if value % k == 0]


def _case(chance: random.Random, start: int, steps: tuple[Step, ...], heldout_share: float) -> Case:
    key = digest(start, steps, size=8)
    (name, they), things = chance.choice(_PEOPLE), chance.choice(_THINGS)
    told = [chance.choice(_SENTENCES[operation]).format(they=they, k=k) for operation, k in steps]
    return Case(
        case_id=f"arithmetic/{key}",
        split="heldout" if int(key, 16) < heldout_share * 16 ** len(key) else "train",
        fields={"question": " ".join([f"{name} has {start} {things}.", *told, f"How many {things} does {name} have?"])},
        references=(_worked(start, steps),),
    )


def _worked(value: int, steps: tuple[Step, ...]) -> str:
    lines = []
    for operation, k in steps:
        result = _RESULTS[operation](value, k)
        lines.append(f"{value} {_SIGNS[operation]} {k} = {result}")
        value = result
    return "\n".join([*lines, f"#### {value}"])


def _require(sound: bool, key: str, expected: str, got: object) -> None:
    if not sound:
        raise ParameterError(f"task.settings.{key}", expected=expected, got=got, remedy="mend params.yaml")
