"""What a run comes to: metrics.json, the few figures of it that DVC's tables show, curves, and the table printed."""

import csv
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from pipeline.report.metric_titles import MEASURES, PLACE, measure
from pipeline.runtime.markdown import markdown_table

Metrics = Mapping[str, Any]


def summarise(
    headline: str,
    teacher: Metrics,
    students: Mapping[str, Sequence[tuple[str, Metrics]]],
    costs: Mapping[str, Metrics],
    last_steps: Mapping[str, int],
) -> dict[str, Any]:
    """metrics.json. `headline` is the task's metric that stands for the others; `students` maps a name to (checkpoint,
    metrics) pairs, `init` first; `costs` is by stage instance.

    Divergences are nats per token; bytes_per_position counts the payload of every segment, metadata included. A round
    has the step it ends with (`last_steps`), how many of its steps `schedule.max_staleness` cut off, and the positions
    that the teacher has scored for this student by then, whether now or earlier: those of the corpus and of its
    rollouts.
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
                "rounds": _rounds(name, checkpoints[1:], costs, last_steps),
                "best": best_round(checkpoints[1:]),
            }
            for name, checkpoints in students.items()
        },
        "store": {
            "positions": positions,
            "payload_bytes": payload_bytes,
            "bytes_per_position": payload_bytes / positions if positions else 0.0,
            "reused_share": reused / positions if positions else 0.0,
            "teacher_tokens_per_trained_token": _tokens(costs, "score") / max(1, _tokens(costs, "train")),
        },
        "cost": costs_by_stage(costs),
    }


def _tokens(costs: Mapping[str, Metrics], stage: str) -> int:
    """Tokens that the models of one kind of stage read."""
    return sum(one["tokens"] for name, one in costs.items() if name.rpartition("-")[2] == stage)


def _rounds(
    student: str,
    checkpoints: Sequence[tuple[str, Metrics]],
    costs: Mapping[str, Metrics],
    last_steps: Mapping[str, int],
) -> list[dict[str, Any]]:
    rows, positions = [], costs.get("corpus-score", {}).get("positions", 0)
    for id_, metrics in checkpoints:
        positions += costs.get(f"{student}-{id_}-score", {}).get("positions", 0)
        missing = costs.get(f"{student}-{id_}-train", {}).get("steps_not_taken", 0)
        place = {"id": id_, "step": last_steps[id_], "steps_not_taken": missing, "scored_positions": positions}
        rows.append({**place, **metrics})
    return rows


def key_figures(metrics: Metrics) -> dict[str, Any]:
    """metrics.json in about ten numbers, which is what fits a row of `dvc exp show`: how every student ended."""
    ends = {"teacher": metrics["teacher"]} | {name: one["after"] for name, one in metrics["students"].items()}
    seconds = sum(one["seconds"] for one in metrics["cost"].values())
    return {name: {key: float(f"{value:.4g}") for key, value in end.items()} for name, end in ends.items()} | {
        "costs": {"seconds": round(seconds), "scored_positions": metrics["store"]["positions"]}
    }


def quality_curves(metrics: Metrics) -> dict[str, dict[str, dict[int, float]]]:
    """Measure -> student -> step -> value, of every number that a round's checkpoint has."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for name, student in metrics["students"].items():
        for row in [{"step": 0} | student["before"], *student["rounds"]]:
            for key, value in row.items():
                if key not in PLACE:
                    curves.setdefault(key, {}).setdefault(name, {})[row["step"]] = value
    return curves


def best_round(rounds: Sequence[tuple[str, Metrics]]) -> dict[str, Any] | None:
    """The round with the smallest forward KL on held-out prompts, the first of equals; None without a finite one."""
    measured = [(id_, metrics["forward_kl"]) for id_, metrics in rounds if math.isfinite(metrics["forward_kl"])]
    if not measured:
        return None
    id_, distance = min(measured, key=lambda one: one[1])
    return {"round": id_, "forward_kl": distance}


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
    keys = _measured(metrics)
    models = [("teacher", metrics["teacher"])]
    for name, one in metrics["students"].items():
        rounds = [(f"{name}, {row['id']}", row) for row in one["rounds"]]
        models += [(f"{name}, before", one["before"]), *rounds]
    quality = [["model", *(measure(key).title for key in keys)]]
    quality += [[label, *(measure(key).show(row.get(key)) for key in keys)] for label, row in models]
    cost = [["stage", "runs", "tokens", "seconds", "tokens/s"]]
    for stage, one in metrics["cost"].items():
        rate = one["tokens"] / one["seconds"] if one["seconds"] else 0.0
        cost.append([stage, f"{one['runs']}", f"{one['tokens']:,}", f"{one['seconds']:.1f}", f"{rate:,.0f}"])
    store, seconds = metrics["store"], sum(one["seconds"] for one in metrics["cost"].values())
    lines = [
        markdown_table(quality),
        "",
        markdown_table(cost),
        "",
        f"{seconds:.0f} s in all. Store: {store['positions']:,} positions, "
        f"{store['bytes_per_position']:.1f} bytes each; {store['reused_share']:.1%} of the scores came from the store.",
        "KL in nats per token on each model's own held-out rollouts (dense, temperature 1).",
    ]
    return "\n".join(lines) + "\n"


def _measured(metrics: Metrics) -> list[str]:
    """The measures that any model has: known ones in their usual order, then the others."""
    models = [metrics["teacher"], *(student["before"] for student in metrics["students"].values())]
    found = dict.fromkeys(key for model in models for key in model)
    return [key for key in MEASURES if key in found] + [key for key in found if key not in MEASURES]


def write_curves(file: TextIO, curves: Mapping[str, Mapping[int, Any]]) -> None:
    """One row a step, one column a student, for `dvc plots`; an empty cell where a student has no value."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", *curves])
    for step in sorted(set().union(*curves.values())):
        writer.writerow([step, *(values.get(step, "") for values in curves.values())])
