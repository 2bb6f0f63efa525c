"""Summarise a document: SciTLDR, XSum, CNN/DailyMail, DialogSum, and every table with a text and summaries of it.

| set | document_column | summary_column |
|---|---|---|
| SciTLDR | source (a list of sentences) | target (a list of summaries) |
| XSum | document | summary |
| CNN/DailyMail | article | highlights |
| DialogSum | dialogue | summary (the test split repeats a dialogue for each of its three) |

A case has every summary of its document in its split: the student trains on the first, and the metrics use the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.metrics.rouge import rouge
from pipeline.tasks.base import Cases, Judged, RougeL, mean
from pipeline.tasks.loading import RowSettings
from pipeline.tasks.rows import Row
from pipeline.tasks.table import Content, table_cases


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarisationSettings(RowSettings):
    """The section `task.settings` of summarisation."""

    document_column: str
    """Column of the documents: a text, or a list of sentences."""
    summary_column: str
    """Column of the summaries: a text, or a list of summaries that are equally right."""


class Summarisation(RougeL):
    """Summaries of documents, measured by ROUGE-1, ROUGE-2 and ROUGE-L with the best reference."""

    fields = ("document",)
    settings = SummarisationSettings

    def cases(self, settings: SummarisationSettings) -> Cases:
        """Return held-out cases, then training cases, in the order of the rows. The document's text is the identity.

        Raises:
            DataError: When the data cannot be read.
        """
        return table_cases("summarisation", settings, _content)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return the mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L."""
        scores = [rouge(summary.text, summary.references, ("rouge_1", "rouge_2")) for summary in judged]
        return {name: mean([score[name] for score in scores]) for name in scores[0]} | super().metrics(judged)


def _content(row: Row, settings: SummarisationSettings) -> Content:
    document = " ".join(row.texts(settings.document_column)).strip()
    return Content(fields={"document": document}, answers=row.texts(settings.summary_column))
