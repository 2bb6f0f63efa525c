"""ROUGE-L between two texts, for every task whose references are sentences: the only module that knows rouge-score.

F-measure of the longest common subsequence of stemmed words (Lin 2004). Cost: about 0.1 ms for a pair of sentences.
Not taken: `evaluate.load("rouge")`, which wraps the same package and fetches its code from the hub.
"""

from functools import cache

from rouge_score.rouge_scorer import RougeScorer


def rouge_l(completion: str, reference: str) -> float:
    """ROUGE-L F1 with stemming, between 0 and 1; 0 when either text has no word of letters or digits."""
    return float(_scorer().score(reference, completion)["rougeL"].fmeasure)


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"], use_stemmer=True)
