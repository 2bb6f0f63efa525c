"""Print numbers and fingerprints in the same way everywhere."""

SHOWN_DIGITS = 12
"""Digits of a fingerprint, a segment's name or a commit that people see; enough of them to be told apart."""


def number_text(value: float | None, unknown: str = "unknown") -> str:
    """Return a number without decimals and with commas, or the text for a value that is not known."""
    return unknown if value is None else f"{value:,.0f}"
