"""Summarise a document: SciTLDR, XSum, CNN/DailyMail, DialogSum and every table with a text and summaries of it.

| set | document_column | summary_column |
|---|---|---|
| SciTLDR | source (a list of sentences) | target (a list of summaries) |
| XSum | document | summary |
| CNN/DailyMail | article | highlights |
| DialogSum | dialogue | summary (the test split repeats a dialogue for each of its three) |

Guarantee: a document is in one split only (held-out wins), with every summary that its split has of it; the first is
learnt and the best counts. Rows without a text or a summary are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.hashing import digest
from pipeline.metrics.rouge import rouge, rouge_l
from pipeline.tasks.base import Case, Judged, mean
from pipeline.tasks.loading import RowSettings, iter_splits
from pipeline.tasks.rows import merge_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarisationSettings(RowSettings):
    """`task.settings` of summarisation."""

    document_column: str
    """A text, or a list of sentences."""
    summary_column: str
    """A text, or a list of summaries that are equally right."""


class Summarisation:
    """ROUGE-1, ROUGE-2 and ROUGE-L, best over the references."""

    headline = "rouge_l"
    fields = ("document",)
    settings = SummarisationSettings

    def cases(self, settings: SummarisationSettings) -> list[Case]:
        """Held-out cases, then training cases, in the order of the rows. Identified by their document's text."""
        return merge_cases(_cases(settings))

    def score(self, completion: str, references: Sequence[str]) -> float:
        """ROUGE-L F1."""
        return rouge_l(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The mean F1 of each measure."""
        words = [rouge(one.text, one.references, ("rouge_1", "rouge_2")) for one in judged]
        return {name: mean([one[name] for one in words]) for name in words[0]} | {
            "rouge_l": mean([one.score for one in judged])
        }


def _cases(settings: SummarisationSettings) -> Iterator[Case]:
    for split, row in iter_splits(settings, (settings.document_column, settings.summary_column)):
        document = row.joined(settings.document_column).strip()
        summaries = tuple(one.strip() for one in row.texts(settings.summary_column) if one.strip())
        if document and summaries:
            case_id = f"summarisation/{digest(document, size=8)}"
            yield Case(case_id=case_id, split=split, fields={"document": document}, references=summaries)
