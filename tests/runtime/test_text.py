"""Texts for people."""

import pytest

from pipeline.runtime.text import size_text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (88_604_000, "88.6 MB"),
        (1_610_000_000, "1.6 GB"),
        (2_000_000_000_000, "2.0 TB"),
        (None, "unknown"),
    ],
)
def test_sizes_are_in_powers_of_a_thousand(size_bytes: int | None, text: str) -> None:
    assert size_text(size_bytes) == text
