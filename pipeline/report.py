"""What a run comes to: metrics.json, the table that is printed, and one wide CSV of all training steps."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

Metrics = Mapping[str, Any]

_COLUMNS = {
    "forward_kl": ("forward KL", ".3f"),
    "reverse_kl": ("reverse KL", ".3f"),
    "top1_agreement": ("top-1 agreement", ".1%"),
    "bleu": ("BLEU", ".1f"),
    "chrf": ("chrF", ".1f"),
    "rouge_1": ("ROUGE-1", ".3f"),
    "rouge_2": ("ROUGE-2", ".3f"),
    "rouge_l": ("ROUGE-L", ".3f"),
    "exact_match": ("exact match", ".1%"),
    "reward": ("reward", ".3f"),
    "eos_share": ("ends with eos", ".1%"),
}


def summarise(
    headline: str,
    teacher: Metrics,
    students: Mapping[str, Sequence[tuple[str, Metrics]]],
    costs: Mapping[str, Metrics],
) -> dict[str, Any]:
    """metrics.json. `headline` is the task's metric that stands for the others; `students` maps a name to (checkpoint,
    metrics) pairs, `init` first; `costs` is by stage instance.

    Divergences are nats per token; bytes_per_position counts the payload of every segment, metadata included.
    """
    scored = [one for one in costs.values() if "positions" in one]
    positions, reused, payload_bytes = (
        sum(one[name] for one in scored) for name in ("positions", "positions_reused", "payload_bytes")
    )
    return {
        "headline": headline,
        "teacher": dict(teacher),
        "students": {
            name: {
                "before": dict(checkpoints[0][1]),
                "after": dict(checkpoints[-1][1]),
                "rounds": [{"id": id_, **metrics} for id_, metrics in checkpoints[1:]],
            }
            for name, checkpoints in students.items()
        },
        "store": {
            "positions": positions,
            "payload_bytes": payload_bytes,
            "bytes_per_position": payload_bytes / positions if positions else 0.0,
            "reused_share": reused / positions if positions else 0.0,
        },
        "cost": costs_by_stage(costs),
    }


def costs_by_stage(costs: Mapping[str, Metrics]) -> dict[str, Any]:
    """Runs, tokens and seconds of every kind of stage."""
    stages: dict[str, dict[str, Any]] = {}
    for name, one in costs.items():
        total = stages.setdefault(name.rpartition("-")[2], {"runs": 0, "tokens": 0, "seconds": 0.0})
        total["runs"] += 1
        total["tokens"] += one["tokens"]
        total["seconds"] = round(total["seconds"] + one["seconds"], 3)
    return stages


def render_table(metrics: Metrics) -> str:
    """Markdown: models by quality, stages by cost, and the store in a line."""
    columns = {
        key: shown for key, shown in _COLUMNS.items() if key in metrics["teacher"] or "kl" in key or "top1" in key
    }
    models = [("teacher", metrics["teacher"])]
    for name, one in metrics["students"].items():
        rounds = [(f"{name}, {row['id']}", row) for row in one["rounds"]]
        models += [(f"{name}, before", one["before"]), *rounds]
    quality = [["model", *(title for title, _ in columns.values())]]
    quality += [[label, *(_cell(row.get(key), form) for key, (_, form) in columns.items())] for label, row in models]
    cost = [["stage", "runs", "tokens", "seconds", "tokens/s"]]
    for stage, one in metrics["cost"].items():
        rate = one["tokens"] / one["seconds"] if one["seconds"] else 0.0
        cost.append([stage, f"{one['runs']}", f"{one['tokens']:,}", f"{one['seconds']:.1f}", f"{rate:,.0f}"])
    store, seconds = metrics["store"], sum(one["seconds"] for one in metrics["cost"].values())
    lines = [
        *markdown(quality),
        "",
        *markdown(cost),
        "",
        f"{seconds:.0f} s in all. Store: {store['positions']:,} positions, "
        f"{store['bytes_per_position']:.1f} bytes each; {store['reused_share']:.1%} of the scores came from the store.",
        "KL in nats per token on each model's own held-out rollouts (dense, temperature 1).",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of an aligned Markdown table; the first row is its head, all columns but the first are numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: Iterable[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(rows[0]), line(rule), *map(line, rows[1:])]


def write_losses(file: TextIO, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One row a step, one column a student: the training loss, for `dvc plots`. Everything else is in the view runs."""
    by_step = {student: {row["step"]: row["loss"] for row in rows} for student, rows in logs.items()}
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", *logs])
    for step in sorted(set().union(*by_step.values())):
        writer.writerow([step, *(losses.get(step, "") for losses in by_step.values())])
