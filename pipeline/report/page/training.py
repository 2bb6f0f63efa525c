"""Course of training: a chart per number in the logs, and a table of the rounds."""

from collections.abc import Sequence

from pipeline.report.metric_titles import measure
from pipeline.report.page.charts import Axis, curve
from pipeline.report.page.html import Chart, Section, section
from pipeline.report.page.quality import Student
from pipeline.report.page.queries import Row, ViewRows, is_number, place

_LABELS = ("student", "round", "step")
_ASIDE = ("grad_norm", "learning_rate", "tokens", "read_tokens", "compared_tokens")  # settings rather than results
_LIMITED = "staleness_kl"
_HEAD = ("round", "steps taken", "mean loss", "staleness at the end, nats", "effective share", "own rollouts")


def training(views: ViewRows, students: Sequence[Student], *, max_staleness: float | None) -> Section:
    """Return a curve over steps for each number of the logs, and a table of the rounds.

    Args:
        views: Rows of the run's views.
        students: The students, for the rounds' planned steps.
        max_staleness: The limit that the chart of staleness shows, or None.
    """
    rows = views.training
    keys = [key for key in (rows[0] if rows else {}) if key not in _LABELS and any(is_number(row[key]) for row in rows)]
    borders = sorted({row["step"] + 0.5 for student in students for row in student.checkpoints[1:-1]})
    levels = {} if max_staleness is None else {_LIMITED: ("schedule.max_staleness", max_staleness)}
    charts = {key: _chart(key, rows, borders, levels.get(key)) for key in keys}
    # A round that took fewer steps than were planned had become too stale.
    planned = {
        (student.name, row["id"]): row["step"] - before["step"]
        for student in students
        for before, row in student.rounds()
    }
    rounds = [(row, planned[key]) for row in views.rounds if (key := (row["student"], row["round"])) in planned]
    return section(
        "training",
        "Training",
        list(charts.values()),
        main=[chart for key, chart in charts.items() if key not in _ASIDE],
        aside=[chart for key, chart in charts.items() if key in _ASIDE],
        borders=borders,
        missing=sum(steps - row["steps"] for row, steps in rounds),
        head=_HEAD,
        rows=[_line(row, steps) for row, steps in rounds],
    )


def _chart(key: str, rows: Sequence[Row], borders: Sequence[float], level: tuple[str, float] | None) -> Chart:
    points = [{"series": row["student"], "x": row["step"], "y": row[key]} for row in rows if is_number(row[key])]
    about, steps = measure(key), Axis("optimizer steps", ",")
    spec = curve(points, steps, Axis(about.title, about.format), marked=False, level=level, borders=borders)
    return Chart(name=f"training-{key}", title=about.title, note=about.unit, spec=spec)


def _line(row: Row, planned: int) -> list[str]:
    columns = (("loss", ".3f"), ("last_staleness_kl", ".3g"), ("last_effective_share", ".0%"), ("own_share", ".0%"))
    cells = [format(row[key], form) if is_number(row.get(key)) else "" for key, form in columns]
    return [place(row), f"{row['steps']} of {planned}", *cells]
