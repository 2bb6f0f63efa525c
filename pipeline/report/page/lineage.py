"""Origin of the students: the lineage of each, as `stillroom lineage` prints it, and params.yaml."""

from collections.abc import Sequence
from typing import Any

from pipeline.lineage.describe import Costs, facts, parameters, rounds, scores
from pipeline.lineage.lineage import history, last_warning
from pipeline.lineage.records import Lineage
from pipeline.report.page.html import Section, section
from pipeline.report.page.queries import Row
from pipeline.runtime.display import short

_FINGERPRINTS, _SETTINGS = ("teacher", "tokenizer", "scorer"), ("engine", "dtype", "codec")


def origins(lineages: Sequence[Lineage], costs: Costs, segments: Sequence[Row], params: str) -> Section:
    """Return the history of each student, how the teacher's scores were computed, and the text of params.yaml."""
    students = [
        {
            "warning": last_warning(lineage),
            "runs": [_run(run, costs if run is lineage else {}) for run in history(lineage)],
        }
        for lineage in lineages
    ]
    scorer = _scorer(segments)
    return section("lineage", "Where it comes from", students=students, scorer=scorer, params=params)


def _run(run: Lineage, costs: Costs) -> dict[str, Any]:
    """Describe one run of a student; the costs of earlier runs are unknown."""
    tables = {"rounds": rounds(run, costs), "scores": scores(run), "parameters": parameters(run)} if run.rounds else {}
    return {"student": run.student, "facts": facts(run), "rounds": [], **tables}


def _scorer(segments: Sequence[Row]) -> dict[str, str]:
    """Return the distinct values of what determines the teacher's scores, fingerprints shortened."""
    values = {key: dict.fromkeys(row[key] for row in segments if row[key]) for key in _FINGERPRINTS + _SETTINGS}
    return {
        key: ", ".join(short(value) if key in _FINGERPRINTS else value for value in distinct)
        for key, distinct in values.items()
        if distinct
    }
