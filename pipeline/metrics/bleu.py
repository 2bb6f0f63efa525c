"""BLEU and chrF between texts and their references: the only module that knows the library sacrebleu.

* Corpus scores from 0 to 100 with the published settings (Post 2018: BLEU of 13a tokens, chrF2 of characters), so they
  are comparable. A text may have any number of references.
* A single sentence is scored with chrF, because most sentences do not share four consecutive words with a reference,
  and their BLEU is zero.
* Limit: BLEU's tokeniser expects spaces between words. Use chrF for Chinese or Japanese.
* Cost: 0.3 ms per sentence. The library is imported when something is scored.
"""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import Any


def corpus_scores(completions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `bleu` and `chrf` of all completions together, from 0 to 100, each completion with its own references."""
    streams = [list(stream) for stream in zip_longest(*references)]  # None where a completion has fewer references
    return {
        "bleu": float(_metric("BLEU").corpus_score(completions, streams).score),
        "chrf": float(_metric("CHRF").corpus_score(completions, streams).score),
    }


def sentence_score(completion: str, references: Sequence[str]) -> float:
    """Return the chrF of one text with its best reference, from 0 to 1."""
    return float(_metric("CHRF").sentence_score(completion, references).score) / 100


def sentence_bleu(completion: str, references: Sequence[str]) -> float:
    """Return the BLEU of one text from 0 to 1, with sacrebleu's smoothing and n-grams no longer than the text."""
    return float(_metric("BLEU", effective_order=True).sentence_score(completion, references).score) / 100


@cache
def _metric(name: str, **options: bool) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**options)
