"""How training went: a chart for every number in the logs, and what became of each round."""

from collections.abc import Sequence

from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import curve
from pipeline.report.page.html import Section, Specs, details, figure, grid, table, text
from pipeline.report.page.quality import Student
from pipeline.report.page.queries import Findings, Row, is_number, place

_LABELS = ("student", "round", "step")
_ASIDE = ("grad_norm", "learning_rate", "tokens", "read_tokens", "compared_tokens")  # rather than what came of it
_LIMITED = "staleness_kl"


def training(found: Findings, students: Sequence[Student], specs: Specs, *, max_staleness: float | None) -> Section:
    """Curves over steps, whatever the numbers are called, with the limit of staleness where there is one."""
    rows = found.training
    keys = [key for key in (rows[0] if rows else {}) if key not in _LABELS and any(is_number(row[key]) for row in rows)]
    borders = sorted({row["step"] + 0.5 for one in students for row in one.checkpoints[1:-1]})
    levels = {} if max_staleness is None else {_LIMITED: ("schedule.max_staleness", max_staleness)}
    figures = {key: _figure(key, rows, borders, levels.get(key), specs) for key in keys}
    main = grid(*(one for key, one in figures.items() if key not in _ASIDE))
    aside = grid(*(one for key, one in figures.items() if key in _ASIDE))
    note = "<p>Dotted lines: new rollouts.</p>" if borders and main else ""
    body = note + main + _rounds(found.rounds, students) + details("More of the logs", aside)
    return Section(name="training", title="Training", body=body)


def _figure(
    key: str, rows: Sequence[Row], borders: Sequence[float], level: tuple[str, float] | None, specs: Specs
) -> str:
    points = [{"series": row["student"], "x": row["step"], "y": row[key]} for row in rows if is_number(row[key])]
    name, of = f"training-{key}", measure(key)
    specs[name] = curve(
        points, x_title="optimizer steps", y_title=of.title, marked=False, form=of.form, level=level, borders=borders
    )
    return figure(name, of.title, of.unit)


def _rounds(rows: Sequence[Row], students: Sequence[Student]) -> str:
    """A row a round; a round that took fewer steps than were planned had become too stale."""
    planned = {(one.name, row["id"]): row["step"] - before["step"] for one in students for before, row in one.pairs()}
    known = [(row, planned[at]) for row in rows if (at := (row["student"], row["round"])) in planned]
    if not known:
        return ""
    left = sum(steps - row["steps"] for row, steps in known)
    words = (
        f"{left} steps were not taken: by then the student had moved too far from the one that wrote its rollouts "
        "(schedule.max_staleness), and the next round began."
    )
    head = ["round", "steps taken", "mean loss", "staleness at the end, nats", "effective share", "own rollouts"]
    return (f"<p>{text(words)}</p>" if left else "") + table("Rounds", head, [_line(*one) for one in known])


def _line(row: Row, planned: int) -> list[str]:
    def shown(key: str, form: str) -> str:
        return format(row[key], form) if is_number(row.get(key)) else ""

    taken = f"{row['steps']} of {planned}"
    ends = shown("last_staleness_kl", ".3g"), shown("last_effective_share", ".0%")
    return [place(row), taken, shown("loss", ".3f"), *ends, shown("own_share", ".0%")]
