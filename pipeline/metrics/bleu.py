"""BLEU and chrF between texts and their references: the only module that knows sacrebleu, imported when it scores.

Corpus measures as published (Post 2018: BLEU of 13a tokens, chrF2 of characters), from 0 to 100; a text may have any
number of references. One sentence is scored by chrF: BLEU is zero for most single sentences without four words in a
row, and says nothing to a reward. Cost: .3 ms a sentence. BLEU's tokeniser expects spaces between words: of Chinese or
Japanese read chrF. Not taken: the tokeniser as a setting, whose figures could not be compared without it.
"""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import Any


def corpus_scores(completions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU and chrF over all completions at once, each with its own references."""
    from sacrebleu.metrics import BLEU

    streams = [list(stream) for stream in zip_longest(*references)]  # None where one has fewer
    return {
        "bleu": float(BLEU().corpus_score(completions, streams).score),
        "chrf": float(_chrf().corpus_score(completions, streams).score),
    }


def sentence_score(completion: str, references: Sequence[str]) -> float:
    """chrF of one text against the reference it likes best, between 0 and 1."""
    return float(_chrf().sentence_score(completion, references).score) / 100


def sentence_bleu(completion: str, references: Sequence[str]) -> float:
    """BLEU of one text between 0 and 1, with sacrebleu's smoothing and no longer n-grams than there are words."""
    from sacrebleu.metrics import BLEU

    return float(BLEU(effective_order=True).sentence_score(completion, references).score) / 100


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
