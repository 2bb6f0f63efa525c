"""Distinct bigrams, counted by hand."""

import pytest

from pipeline.metrics.diversity import distinct_bigrams


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (["a b a b"], 2 / 3),  # a-b, b-a, a-b
        (["a b, c!", "A  B c"], 1 / 2),  # case and punctuation do not count, and repetitions across texts do
        (["a b", "c d"], 1.0),
        (["a", "", "!"], 1.0),
    ],
)
def test_distinct_pairs_among_all_pairs(texts: list[str], share: float) -> None:
    assert distinct_bigrams(texts) == pytest.approx(share)
