"""Grade-school maths: GSM8K (Cobbe et al. 2021), and every table with a question and a worked answer.

* Guarantee: every answer has a number.
* The references lose GSM8K's calculator notes `<<48/2=24>>`, which are no part of a written answer.
* Cost: about half a second for the published 8,792 rows.
"""

import re
from dataclasses import dataclass

from pipeline.metrics.exact_match import final_number
from pipeline.runtime.errors import DataError
from pipeline.tasks.base import Cases, ExactMatch
from pipeline.tasks.loading import RowSettings
from pipeline.tasks.rows import Row
from pipeline.tasks.table import Content, table_cases

_NOTE = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gsm8kSettings(RowSettings):
    """The section `task.settings` of gsm8k."""

    question_column: str
    """Column of the questions."""
    answer_column: str
    """Column of the worked answers."""


class Gsm8k(ExactMatch):
    """Word problems with a worked answer, measured by the final number."""

    fields = ("question",)
    settings = Gsm8kSettings

    def cases(self, settings: Gsm8kSettings) -> Cases:
        """Return held-out cases, then training cases, in the order of the rows. The question's text is the identity.

        Raises:
            DataError: When the data cannot be read, or an answer has no number.
        """
        return table_cases("gsm8k", settings, _content)


def _content(row: Row, settings: Gsm8kSettings) -> Content:
    question, answer = row.text(settings.question_column).strip(), row.text(settings.answer_column)
    if question and answer.strip() and final_number(answer) is None:
        expected, remedy = "an answer with a number", "fix task.settings.answer_column"
        raise DataError(row.where, expected=expected, got=repr(answer[:60]), remedy=remedy)
    return Content(fields={"question": question}, answers=[_NOTE.sub("", answer)])
