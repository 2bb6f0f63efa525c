"""Divide texts in any script into words, for metrics that count words, and say which script a text has.

* ASCII text is divided as the library rouge-score does it: lower case, words of letters and digits.
* Other texts: a word is a run of letters, digits and their combining marks, after Unicode's NFKC normalisation.
* Scripts without spaces have no words to find without a dictionary. A Chinese character is a word (as Hu et al. 2015
  measure LCSTS); Japanese kana, Thai, Lao, Burmese and Khmer give overlapping pairs of characters, each with its marks
  (as Lucene's CJK analyser does).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff"
_UNSPACED = f"{_KANA}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # and Thai, Lao, Burmese, Khmer
_RUNS = re.compile(f"(?P<han>[{_HAN}])|(?P<unspaced>[{_UNSPACED}]+)|[^\\s{_HAN}{_UNSPACED}]+")
_OF_SCRIPT = {
    "han": re.compile(f"[{_HAN}]"),
    "kana": re.compile(f"[{_KANA}]"),
    "other": re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"),
}


def split_words(text: str) -> list[str]:
    """Return the words of a text that is not ASCII, in lower case."""
    kept = "".join(map(_word_character, unicodedata.normalize("NFKC", text).lower()))
    return [word for run in _RUNS.finditer(kept) for word in _words(run)]


def unspaced_script(texts: Iterable[str]) -> str | None:
    """Return "han", "kana" (Chinese characters with kana) or "other" for texts mostly without spaces, or else None."""
    whole = "".join(texts)
    counts = {script: len(pattern.findall(whole)) for script, pattern in _OF_SCRIPT.items()}
    if 2 * sum(counts.values()) <= sum(map(str.isalpha, whole)):
        return None
    if counts["other"] > counts["han"] + counts["kana"]:
        return "other"
    return "kana" if counts["kana"] else "han"


def _words(run: re.Match[str]) -> Iterator[str]:
    if not run["unspaced"]:
        yield run[0]
        return
    clusters: list[str] = []
    for character in run[0]:
        if clusters and unicodedata.category(character).startswith("M"):
            clusters[-1] += character
        else:
            clusters.append(character)
    if len(clusters) == 1:
        yield clusters[0]
    yield from ("".join(pair) for pair in pairwise(clusters))


@cache
def _word_character(character: str) -> str:
    """Return a letter, mark or digit itself, nothing for a joiner within a word, and a space for all else."""
    kind = unicodedata.category(character)
    return character if kind[0] in "LMN" else "" if kind == "Cf" else " "
