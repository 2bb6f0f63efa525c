"""BLEU and chrF between texts and their references: the only module that knows the library sacrebleu.

* Corpus scores from 0 to 100 with the published settings (Post 2018: BLEU of 13a tokens, chrF2 of characters), so they
  are comparable. A text may have any number of references.
* A single sentence is scored with chrF, because most sentences do not share four consecutive words with a reference,
  and their BLEU is zero.
* BLEU of references in Chinese uses sacrebleu's tokens for Chinese, and that of references in another script without
  spaces (Japanese, Thai, Lao, Burmese, Khmer) uses characters, because segmenters such as MeCab are not installed.
* Cost: 0.3 ms per sentence. The library is imported when something is scored.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, zip_longest
from typing import Any

from pipeline.metrics.words import unspaced_script


def corpus_scores(completions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `bleu` and `chrf` of all completions together, from 0 to 100, each completion with its own references."""
    streams = [list(stream) for stream in zip_longest(*references)]  # None where a completion has fewer references
    return {
        "bleu": float(_bleu(chain.from_iterable(references)).corpus_score(completions, streams).score),
        "chrf": float(_metric("CHRF").corpus_score(completions, streams).score),
    }


def sentence_score(completion: str, references: Sequence[str]) -> float:
    """Return the chrF of one text with its best reference, from 0 to 1."""
    return float(_metric("CHRF").sentence_score(completion, references).score) / 100


def sentence_bleu(completion: str, references: Sequence[str]) -> float:
    """Return the BLEU of one text from 0 to 1, with sacrebleu's smoothing and n-grams no longer than the text."""
    return float(_bleu(references, effective_order=True).sentence_score(completion, references).score) / 100


def _bleu(references: Iterable[str], **options: bool) -> Any:
    """Return BLEU with the tokens that the references' script needs; `None` are those of 13a."""
    script = unspaced_script(references)
    return _metric("BLEU", tokenize="zh" if script == "han" else "char" if script else None, **options)


@cache
def _metric(name: str, **options: bool | str | None) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**options)
