"""Synthetic word problems of a few short sentences with worked steps, for models of 1-10 M parameters.

"Ann has 12 pens. She buys 5. She loses 8. How many pens does Ann have?" is answered "12 + 5 = 17", "17 - 8 = 9",
"#### 9". All numbers are whole and at least 1.

* Guarantee: problem i depends on the seed and on i alone, so a larger number of problems keeps the earlier ones. A
  computation (its numbers and operations in order) occurs once, and its content decides its split. So no held-out
  computation occurs in training in other words.
* Cost: about one second for 20,000 problems.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import add, floordiv, mul, sub
from typing import Annotated, Literal, TypeAlias

from annotated_types import Interval

from pipeline.core.hashing import derive_seed, digest
from pipeline.runtime.config import Positive
from pipeline.runtime.errors import ParameterError
from pipeline.tasks.base import Case, ExactMatch

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
    "add": add,
    "subtract": sub,
    "multiply": mul,
    "divide": floordiv,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticSettings:
    """The section `task.settings` of arithmetic; its last five fields are the difficulty."""

    seed: int
    """Seed of the problems. The pipeline's own seed only chooses among them."""
    problems: Positive
    """Number of problems drawn. A computation that is drawn again is dropped."""
    heldout_share: Annotated[float, Interval(gt=0, le=1)]
    """Share of all computations in the held-out split."""
    min_steps: Positive
    """Smallest number of steps."""
    max_steps: Positive
    """Largest number of steps."""
    max_operand: Positive
    """Largest number in a question. Factors and divisors are at most 9."""
    max_value: Positive
    """Largest result of a step."""
    operations: tuple[Operation, ...]
    """Operations that occur."""

    def __post_init__(self) -> None:
        """Refuse settings that admit no problem."""
        if self.min_steps > self.max_steps:
            raise _error("min_steps", f"at most max_steps ({self.max_steps})", self.min_steps)
        if self.max_operand > self.max_value:
            raise _error("max_operand", f"at most max_value ({self.max_value})", self.max_operand)
        if not self.operations:
            raise _error("operations", f"some of {', '.join(_SIGNS)}", "none")


class Arithmetic(ExactMatch):
    """Synthetic word problems, measured by the final number."""

    fields = ("question",)
    settings = ArithmeticSettings

    def cases(self, settings: ArithmeticSettings) -> Iterator[Case]:
        """Yield the problems of both splits in the order in which they are drawn."""
        drawn: set[tuple[int, tuple[Step, ...]]] = set()
        for number in range(settings.problems):
            chance = random.Random(derive_seed(settings.seed, "arithmetic", number))
            start = chance.randint(1, settings.max_operand)
            steps = _draw_steps(chance, start, settings)
            if steps and (start, steps) not in drawn:
                drawn.add((start, steps))
                yield _case(chance, start, steps, settings.heldout_share)


def _draw_steps(chance: random.Random, value: int, settings: ArithmeticSettings) -> tuple[Step, ...]:
    """Draw the steps of a problem; none where no operation is possible after a step."""
    steps: list[Step] = []
    for _ in range(chance.randint(settings.min_steps, settings.max_steps)):
        operands = {operation: _operands(operation, value, settings) for operation in settings.operations}
        possible = [operation for operation in operands if operands[operation]]
        if not possible:
            return ()
        operation = chance.choice(possible)
        k = chance.choice(operands[operation])
        steps.append((operation, k))
        value = _RESULTS[operation](value, k)
    return tuple(steps)


def _operands(operation: Operation, value: int, settings: ArithmeticSettings) -> Sequence[int]:
    """Return the numbers with which an operation leads from `value` to a whole number from 1 to max_value."""
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
    story = [chance.choice(_SENTENCES[operation]).format(they=they, k=k) for operation, k in steps]
    question = " ".join([f"{name} has {start} {things}.", *story, f"How many {things} does {name} have?"])
    return Case(
        case_id=f"arithmetic/{key}",
        split="heldout" if int(key, 16) < heldout_share * 16 ** len(key) else "train",
        fields={"question": question},
        references=(_worked_answer(start, steps),),
    )


def _worked_answer(value: int, steps: tuple[Step, ...]) -> str:
    lines = []
    for operation, k in steps:
        result = _RESULTS[operation](value, k)
        lines.append(f"{value} {_SIGNS[operation]} {k} = {result}")
        value = result
    return "\n".join([*lines, f"#### {value}"])


def _error(key: str, expected: str, got: object) -> ParameterError:
    return ParameterError(f"task.settings.{key}", expected=expected, got=got)
