"""Texts for people: numbers, shortened fingerprints and Markdown tables."""

from collections.abc import Sequence

from tabulate import tabulate

_SHOWN_DIGITS = 12


def short(fingerprint: str) -> str:
    """Return the beginning of a fingerprint, an id or a commit, long enough for people to tell two of them apart."""
    return fingerprint[:_SHOWN_DIGITS]


def number_text(value: float | None, unknown: str = "unknown") -> str:
    """Return a number without decimals and with commas, or the text for a value that is not known."""
    return unknown if value is None else f"{value:,.0f}"


def size_text(size_bytes: float | None, unknown: str = "unknown") -> str:
    """Return a number of bytes in the unit that leaves one to three digits before the point, in powers of 1,000."""
    if size_bytes is None:
        return unknown
    size, units = float(size_bytes), iter(("kB", "MB", "GB", "TB"))
    if size < 1000:
        return f"{size:.0f} bytes"
    while size >= 999.95:
        size, unit = size / 1000, next(units, "PB")
    return f"{size:.1f} {unit}"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned Markdown table.

    Args:
        rows: The header and then the body; all columns but the first are aligned to the right, as numbers are.

    Returns:
        The lines of the table without a final line break. Cells stay as they are, including their spaces.
    """
    table: str = tabulate(
        rows,
        headers="firstrow",
        tablefmt="pipe",
        disable_numparse=True,
        colglobalalign="right",
        colalign=("left",),
        preserve_whitespace=True,
    )
    return table
