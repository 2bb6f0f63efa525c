"""Find the final number of a worked answer, and compare it with the references'.

Guarantee: numbers are compared exactly, as fractions: 1,000 equals $1000.00, and .5 equals 0.50.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

# A sign counts only where no letter, digit, point or bracket precedes it, from which it could subtract.
_NUMBER = re.compile(r"(?:(?<![\w).])[-−]\$?|\$[-−]?)?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")


def final_number(text: str) -> Fraction | None:
    """Return the first number after the last ####, or else the last number, or None without a number.

    Thousands separators, a dollar sign and a final full stop are ignored.
    """
    before, mark, after = text.rpartition("####")
    if mark and (match := _NUMBER.search(after)):
        return _value(match)
    matches = list(_NUMBER.finditer(before or after))
    return _value(matches[-1]) if matches else None


def exact_match(completion: str, references: Sequence[str]) -> float:
    """Return 1 when the final number is that of any reference, else 0."""
    number = final_number(completion)
    return float(number is not None and number in map(final_number, references))


def _value(match: re.Match[str]) -> Fraction:
    number = Fraction(match[1].replace(",", ""))
    return -number if "-" in match[0] or "−" in match[0] else number
