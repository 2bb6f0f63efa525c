"""Translate a sentence: Multi30k, WMT, and every table or pair of files with two languages.

Limit: WMT's files are often tokenised with Moses ("don &apos;t , he said ."). BLEU then counts tokens that no
translator would write, and is comparable only among runs on the same files. To compare with published numbers,
detokenise the files first (sacremoses), or use the published untokenised set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics.bleu import corpus_scores, sentence_score
from pipeline.tasks.base import Cases, Judged
from pipeline.tasks.loading import RowSettings
from pipeline.tasks.rows import Row
from pipeline.tasks.table import Content, table_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationSettings(RowSettings):
    """The section `task.settings` of translation. For line files the columns are parts of the file names."""

    source_column: str
    """Column of the source language. Multi30k: en; WMT on the hub: translation.en; WMT's files: src."""
    target_column: str
    """Column of the target language."""


class Translation:
    """Translations, measured by BLEU and chrF of the corpus; the score of a sentence is its chrF."""

    headline = "bleu"
    fields = ("source",)
    settings = TranslationSettings

    def cases(self, settings: TranslationSettings) -> Cases:
        """Return held-out cases, then training cases, in the order of the rows. The source's text is the identity.

        Raises:
            DataError: When the data cannot be read.
        """
        return table_cases("translation", settings, _content)

    def score(self, completion: str, references: Sequence[str]) -> float:
        """Return the chrF of the sentence, from 0 to 1."""
        return sentence_score(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return BLEU and chrF of all sentences together, from 0 to 100."""
        return corpus_scores([sentence.text for sentence in judged], [sentence.references for sentence in judged])


def _content(row: Row, settings: TranslationSettings) -> Content:
    source = row.text(settings.source_column).strip()
    return Content(fields={"source": source}, answers=[row.text(settings.target_column)])
