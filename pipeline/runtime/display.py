"""Print numbers and fingerprints in the same way everywhere."""

_SHOWN_DIGITS = 12


def short(fingerprint: str) -> str:
    """Return the beginning of a fingerprint, an id or a commit, long enough for people to tell two of them apart."""
    return fingerprint[:_SHOWN_DIGITS]


def number_text(value: float | None, unknown: str = "unknown") -> str:
    """Return a number without decimals and with commas, or the text for a value that is not known."""
    return unknown if value is None else f"{value:,.0f}"
