"""Where the students come from: each one's lineage as `stillroom lineage` tells it, and the file of parameters."""

from collections.abc import Sequence

from pipeline.lineage.describe import Costs, facts, parameters, rounds, scores
from pipeline.lineage.lineage import history, last_warning
from pipeline.lineage.records import Lineage
from pipeline.report.page.html import Section, details, pairs, table, text
from pipeline.report.page.queries import Row

_CODED = 12  # characters of a fingerprint that people compare


def origins(lineages: Sequence[Lineage], costs: Costs, segments: Sequence[Row], params: str) -> Section:
    """A part a student, what made the scores, and params.yaml as it was."""
    students = "".join(_student(one, costs) for one in lineages)
    body = students + _scorer(segments) + details("params.yaml", f'<pre tabindex="0">{text(params)}</pre>')
    return Section(name="lineage", title="Where it comes from", body=body)


def _student(lineage: Lineage, costs: Costs) -> str:
    """Its runs, the first one first; of earlier ones the costs are unknown here."""
    warning = last_warning(lineage)
    parts = [f"<p>{text(f'Warning: {warning}.')}</p>" if warning else ""]
    for run in history(lineage):
        spent = costs if run is lineage else {}
        parts.append(f"<h3>{text(run.student)}</h3>" + pairs(facts(run)))
        if run.rounds:
            head, *rows = rounds(run, spent)
            parts.append(table(f"Rounds of {run.student}", head, rows))
            parts.append(details("Scores that each round was trained on", pairs(scores(run))))
            parts.append(details("Parameters of the last round", pairs(parameters(run))))
    return "".join(parts)


def _scorer(segments: Sequence[Row]) -> str:
    told = {}
    for key in ("teacher", "tokenizer", "scorer", "engine", "dtype", "codec"):
        if values := list(dict.fromkeys(row[key] for row in segments if row[key])):
            told[key] = ", ".join(one if key in {"engine", "dtype", "codec"} else one[:_CODED] for one in values)
    return "<h3>The teacher's scores</h3>" + pairs(told) if told else ""
