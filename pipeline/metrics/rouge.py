"""ROUGE between a text and its references: the only module that knows the library rouge-score.

* F-measures of common words (rouge_1), of word pairs (rouge_2) and of the longest common subsequence (rouge_l), with
  stemming (Lin 2004). With several references each measure uses the best.
* Texts in ASCII have the library's words, and other texts those of `words`, of which the ASCII words are stemmed.
* Cost: about 0.1 ms per measure for a pair of sentences. The library imports nltk in 0.3 s when something is scored.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from pipeline.metrics.words import split_words

_NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge_l(completion: str, references: Sequence[str]) -> float:
    """Return the F-measure of ROUGE-L, from 0 to 1; it is 0 for a text without letters or digits."""
    return rouge(completion, references, ("rouge_l",))["rouge_l"]


def rouge(completion: str, references: Sequence[str], names: tuple[str, ...] = tuple(_NAMES)) -> dict[str, float]:
    """Return the F-measure of each named measure with its best reference, from 0 to 1."""
    scores = [_scorer(names).score(reference, completion) for reference in references]
    return {name: max(float(score[_NAMES[name]].fmeasure) for score in scores) for name in names}


@cache
def _scorer(names: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([_NAMES[name] for name in names], tokenizer=_Tokenizer())


class _Tokenizer:
    """The interface of rouge-score's tokenizers."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        if text.isascii():
            return list(self._ascii.tokenize(text))
        words = split_words(text)
        return [stem for word in words for stem in (self._ascii.tokenize(word) if word.isascii() else [word])]
