"""Markdown tables."""

from collections.abc import Sequence

from tabulate import tabulate


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
