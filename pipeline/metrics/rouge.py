"""ROUGE between a text and its references, for tasks that answer in sentences: the only module that knows rouge-score.

F-measures of common words (rouge_1), word pairs (rouge_2) and of the longest common subsequence (rouge_l), stemmed (Lin
2004); of several references each measure takes the best. Cost: about 0.1 ms for a pair of sentences and a measure. Not
taken: `evaluate.load("rouge")`, which wraps the same package and fetches its code from the hub; rougeLsum, which
differs from rouge_l where summaries are written one sentence a line. The package, which imports nltk, is imported when
something is scored: a third of a second that most who import a task need not.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

_NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def rouge_l(completion: str, references: Sequence[str]) -> float:
    """ROUGE-L F1, between 0 and 1; 0 when there is no word of letters or digits."""
    return rouge(completion, references, ("rouge_l",))["rouge_l"]


def rouge(completion: str, references: Sequence[str], names: tuple[str, ...] = tuple(_NAMES)) -> dict[str, float]:
    """F1 of each named measure, between 0 and 1, against the reference it likes best."""
    found = [_scorer(names).score(reference, completion) for reference in references]
    return {name: max(float(one[_NAMES[name]].fmeasure) for one in found) for name in names}


@cache
def _scorer(names: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([_NAMES[name] for name in names], use_stemmer=True)
