"""Find the final number of a worked answer, and compare it with the references'.

Guarantee: numbers are compared exactly, as fractions: 1,000 equals $1000.00, .5 equals 0.50, and 1e5 equals 100,000.
Digits may be those of any script, also in full width, with the separators of Arabic.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

# A sign counts only where no letter, digit, point or bracket precedes it, from which it could subtract.
_NUMBER = re.compile(
    r"(?:(?<![\w).])[-−]\$?|\$[-−]?)?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"([eE][-+]?\d{1,3}(?!\w|\.\d))?"
)
# Full width, and the separators of Arabic, as ASCII.
_WIDE = str.maketrans("＃＄＋－．，٫٬", "#$+-.,.,")


def final_number(text: str) -> Fraction | None:
    """Return the first number after the last ####, or else the last number, or None without a number.

    Thousands separators, a dollar sign and a final full stop are ignored.
    """
    before, mark, after = text.translate(_WIDE).rpartition("####")
    if mark and (match := _NUMBER.search(after)):
        return _value(match)
    matches = list(_NUMBER.finditer(before or after))
    return _value(matches[-1]) if matches else None


def exact_match(completion: str, references: Sequence[str]) -> float:
    """Return 1 when the final number is that of any reference, else 0."""
    number = final_number(completion)
    return float(number is not None and number in map(final_number, references))


def _value(match: re.Match[str]) -> Fraction:
    number = Fraction(Decimal(match[1].replace(",", "") + (match[2] or "")))  # int() refuses 4,301 digits
    sign = match[0][: match.start(1) - match.start()]
    return -number if "-" in sign or "−" in sign else number
