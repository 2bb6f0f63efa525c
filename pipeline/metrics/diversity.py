"""Diversity of completions: how much of what a model writes it did not write before."""

from collections.abc import Sequence
from itertools import pairwise

from pipeline.metrics.words import split_words


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Return the share of distinct pairs among all pairs of adjacent words; 1 for texts without a pair.

    A model that was sharpened repeats itself, within a text and from text to text. The share falls with the number and
    the length of the texts, so it compares models on the same prompts alone.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016 (distinct-2).
    """
    pairs = [pair for text in texts for pair in pairwise(split_words(text))]
    return len(set(pairs)) / len(pairs) if pairs else 1.0
