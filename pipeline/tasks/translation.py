"""Translate a sentence: Multi30k, WMT and every table or pair of files with two languages.

Guarantee: a source sentence is in one split only (held-out wins); one that comes again in its split adds a reference;
pairs with an empty side are left out. WMT's files are often tokenised by Moses ("don &apos;t , he said ."): BLEU then
counts tokens that nobody would write, and is comparable among one's own runs alone; to compare with others detokenise
first (sacremoses, or the published untokenised set). Not taken: doing so here, which would change the data silently.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.hashing import digest
from pipeline.metrics.bleu import corpus_scores, sentence_score
from pipeline.tasks.base import Case, Judged
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import merge_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslationSettings(RowSettings):
    """`task.settings` of translation. For line files the columns are parts of the files' names."""

    source_column: str
    """Multi30k: en; WMT on the hub: translation.en; WMT's files: src."""
    target_column: str


class Translation:
    """BLEU and chrF of the corpus; chrF of a sentence."""

    headline = "bleu"
    fields = ("source",)
    settings = TranslationSettings

    def cases(self, settings: TranslationSettings) -> list[Case]:
        """Held-out cases, then training cases, in the order of the rows. Identified by their source's text."""
        return merge_cases(_cases(settings))

    def score(self, completion: str, references: Sequence[str]) -> float:
        """chrF of the sentence, between 0 and 1."""
        return sentence_score(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """BLEU and chrF of all sentences together, between 0 and 100."""
        return corpus_scores([one.text for one in judged], [one.references for one in judged])


def _cases(settings: TranslationSettings) -> Iterator[Case]:
    for split, row in iter_splits(settings, (settings.source_column, settings.target_column)):
        source, target = row.text(settings.source_column).strip(), row.text(settings.target_column).strip()
        if source and target:
            case_id = f"translation/{digest(source, size=8)}"
            yield Case(case_id=case_id, split=split, fields={"source": source}, references=(target,))
