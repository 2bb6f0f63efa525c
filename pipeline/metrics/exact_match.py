"""The final number of a worked answer, and whether two answers end in the same one.

Guarantee: numbers are compared as numbers, exactly: 1,000 and $1000.00 are equal, .5 and 0.50 as well.
Not taken: floats, where .1 + .2 is not .3.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

# A sign counts only where nothing stands before it that it could subtract from.
_NUMBER = re.compile(r"(?:(?<![\w).])[-−]\$?|\$[-−]?)?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


def final_number(text: str) -> Fraction | None:
    """The first number after the last ####, or else the last number; None when there is none.

    Thousands separators, a dollar sign before and a full stop behind do not count.
    """
    before, mark, after = text.rpartition("####")
    if mark and (found := _NUMBER.search(after)):
        return _value(found)
    numbers = list(_NUMBER.finditer(before or after))
    return _value(numbers[-1]) if numbers else None


def exact_match(completion: str, references: Sequence[str]) -> float:
    """1 when the final number is that of any reference, else 0."""
    number = final_number(completion)
    return float(number is not None and number in map(final_number, references))


def _value(found: re.Match[str]) -> Fraction:
    number = Fraction(found[1].replace(",", ""))
    return -number if "-" in found[0] or "−" in found[0] else number
