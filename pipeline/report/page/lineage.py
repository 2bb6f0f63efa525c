"""Origin of the students: the lineage of each, as `stillroom lineage` prints it, and params.yaml."""

from collections.abc import Sequence

from pipeline.lineage.describe import Costs, describe_runs
from pipeline.lineage.lineage import last_warning
from pipeline.lineage.records import Lineage
from pipeline.report.page.charts import Row
from pipeline.report.page.html import Section, section
from pipeline.runtime.display import short

_FINGERPRINTS, _SETTINGS = ("teacher", "tokenizer", "scorer"), ("engine", "dtype", "codec")


def origins(lineages: Sequence[Lineage], costs: Costs, segments: Sequence[Row], params: str) -> Section:
    """Return the history of each student, how the teacher's scores were computed, and the text of params.yaml."""
    students = [{"warning": last_warning(lineage), "runs": describe_runs(lineage, costs)} for lineage in lineages]
    scorer = _scorer(segments)
    return section("lineage", "Where it comes from", students=students, scorer=scorer, params=params)


def _scorer(segments: Sequence[Row]) -> dict[str, str]:
    """Return the distinct values of what determines the teacher's scores, fingerprints shortened."""
    values = {key: dict.fromkeys(row[key] for row in segments if row[key]) for key in _FINGERPRINTS + _SETTINGS}
    return {
        key: ", ".join(short(value) if key in _FINGERPRINTS else value for value in distinct)
        for key, distinct in values.items()
        if distinct
    }
