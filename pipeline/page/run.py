"""report/index.html of one run, and the page that compares several."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.measures import measure
from pipeline.page import heatmap, quality
from pipeline.page.charts import curve, ranges
from pipeline.page.costs import compared_costs, ledger
from pipeline.page.findings import Findings, Row, is_number, place
from pipeline.page.html import Section, Specs, details, document, figure, grid, table, text

Metrics = Mapping[str, Any]
_LABELS = ("student", "round", "step")
_ASIDE = ("grad_norm", "learning_rate", "tokens", "read_tokens")  # how training went, rather than what came of it
_CODED = 16  # characters of a fingerprint that people compare


def run_page(
    metrics: Metrics,
    found: Findings,
    *,
    checkpoints: Sequence[str],
    title: str,
    lineage: Mapping[str, str],
    params: str,
) -> str:
    """The page of a run; `lineage` is told in a table, `params` is the text of params.yaml."""
    specs: Specs = {}
    students = quality.students_of({"": metrics})
    cases = heatmap.cases(found.tokens, found.prompts, checkpoints[0], checkpoints[-1])
    shown = heatmap.fitting(cases)
    sections = [
        quality.side_by_side(students),
        quality.headline(students),
        quality.curves(students, specs),
        heatmap.heat_section(len(shown), len(cases)),
        _training(found.training, students, specs),
        quality.against_teacher_tokens(students, specs),
        ledger(found.costs, specs),
        _store(found, specs),
        _lineage(lineage, found.segments, params),
    ]
    return document(title, _lead(metrics), sections, specs, shown)


def comparison_page(runs: Mapping[str, Metrics]) -> str:
    """Several runs, each by its label, in one page."""
    specs: Specs = {}
    students = quality.students_of(runs)
    sections = [
        quality.side_by_side(students),
        quality.curves(students, specs),
        quality.headline(students),
        quality.against_teacher_tokens(students, specs),
        compared_costs(runs, specs),
    ]
    return document("stillroom: runs compared", ", ".join(runs), sections, specs, [])


def _lead(metrics: Metrics) -> str:
    first = [f"{name}: forward KL {_way(one, 'forward_kl')}" for name, one in metrics["students"].items()]
    return "; ".join(first) + ". Divergences in nats a token, on each student's own held-out completions."


def _way(student: Metrics, key: str) -> str:
    of = measure(key)
    return f"{of.show(student['before'].get(key))} → {of.show(student['after'].get(key))}"


def _training(rows: Sequence[Row], students: Sequence[quality.Student], specs: Specs) -> Section:
    """A chart for every number in the logs, whatever it is called."""
    keys = [key for key in (rows[0] if rows else {}) if key not in _LABELS and any(is_number(row[key]) for row in rows)]
    borders = sorted({row["step"] + 0.5 for one in students for row in one.checkpoints[1:-1]})
    figures = {key: _training_figure(key, rows, borders, specs) for key in keys}
    main = grid(*(one for key, one in figures.items() if key not in _ASIDE))
    aside = grid(*(one for key, one in figures.items() if key in _ASIDE))
    note = "<p>Dotted lines: new rollouts.</p>" if borders and figures else ""
    return Section(
        name="training", title="Training", body=note * bool(main) + main + details("More of the logs", aside)
    )


def _training_figure(key: str, rows: Sequence[Row], borders: Sequence[float], specs: Specs) -> str:
    points = [{"series": row["student"], "x": row["step"], "y": row[key]} for row in rows if is_number(row[key])]
    name, of = f"training-{key}", measure(key)
    form = "%" if of.form.endswith("%") else of.form
    specs[name] = curve(points, x_title="optimizer steps", y_title=of.title, marked=False, form=form, borders=borders)
    return figure(name, of.title, of.unit)


def _store(found: Findings, specs: Specs) -> Section:
    """How much the store keeps of a teacher's row, and how flat the rows are."""
    figures = []
    for key, title in (("tail", "Teacher's mass outside its entries"), ("entropy", "Teacher's entropy, nats")):
        points = [
            {"group": place(row), "series": row["source"]} | {name: row[name] for name in ("mean", "p50", "p90")}
            for row in found.tails
            if row["measure"] == key
        ]
        if points:
            specs[f"store-{key}"] = ranges(points, y_title=title)
            figures.append(figure(f"store-{key}", title, "mean; line: median to 90th percentile of the sequences"))
    head = ["segment", "sequences", "positions", "entries", "the author's", "draws", "bytes", "codec", "error, nats"]
    rows = [_segment_line(row) for row in found.segments]
    words = (
        "Entries, the author's likely tokens, draws and bytes (index and tokens included) are means a position."
        if rows
        else ""
    )
    body = grid(*figures) + (f"<p>{words}</p>" + table("Segments", head, rows) if rows else "")
    return Section(name="store", title="What the teacher said", body=body)


def _segment_line(row: Row) -> list[str]:
    def each(name: str) -> str:
        return f"{row[name] / row['positions']:.1f}" if row["positions"] else ""

    error = f"{row['error_nats']:.2g}" if row["measured_positions"] else ""
    numbers = [each(name) for name in ("head_entries", "union_entries", "draws", "size_bytes")]
    return [place(row), f"{row['sequences']:,}", f"{row['positions']:,}", *numbers, row["codec"], error]


def _lineage(lineage: Mapping[str, str], segments: Sequence[Row], params: str) -> Section:
    told = dict(lineage)
    for key in ("teacher", "tokenizer", "scorer", "engine", "dtype"):
        if values := list(dict.fromkeys(row[key] for row in segments if row[key])):
            told[f"{key} of the scores"] = ", ".join(one[:_CODED] for one in values)
    pairs = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in told.items())
    body = f"<dl>{pairs}</dl>" + details("params.yaml", f'<pre tabindex="0">{text(params)}</pre>')
    return Section(name="lineage", title="Where it comes from", body=body)
