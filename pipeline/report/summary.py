"""Summary of a run: metrics.json, its key figures for DVC's tables, curves for `dvc plots`, and the printed table."""

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
    """Return the content of metrics.json.

    Divergences are in nats per token. `bytes_per_position` counts the payload of every segment, metadata included. A
    round contains the step at its end, how many of its steps `schedule.max_staleness` skipped, and the number of
    positions of the fixed corpus and of the student's rollouts so far that have teacher scores, computed in this run
    or earlier.

    Args:
        headline: Name of the task's main metric.
        teacher: The teacher's metrics.
        students: Name -> pairs of checkpoint and metrics, `init` first.
        costs: Costs by the name of the stage.
        last_steps: Round -> the optimizer step at its end.
    """
    scored = [cost for cost in costs.values() if "positions" in cost]
    positions, reused, payload_bytes = (
        sum(cost[key] for cost in scored) for key in ("positions", "positions_reused", "payload_bytes")
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
    """Return the number of tokens that models read in one kind of stage."""
    return sum(cost["tokens"] for name, cost in costs.items() if _kind(name) == stage)


def _kind(name: str) -> str:
    """Return `score` for `small-r1-score`."""
    return name.rpartition("-")[2]


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
    """Return the final figures of metrics.json, about ten numbers, which fit a row of `dvc exp show`."""
    ends = {"teacher": metrics["teacher"]} | {name: student["after"] for name, student in metrics["students"].items()}
    return {name: {key: float(f"{value:.4g}") for key, value in end.items()} for name, end in ends.items()} | {
        "costs": {"seconds": round(_seconds(metrics)), "scored_positions": metrics["store"]["positions"]}
    }


def _seconds(metrics: Metrics) -> float:
    seconds: float = sum(stage["seconds"] for stage in metrics["cost"].values())
    return seconds


def quality_curves(metrics: Metrics) -> dict[str, dict[str, dict[int, float]]]:
    """Return measure -> student -> step -> value, for every measure of the checkpoints."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for name, student in metrics["students"].items():
        for row in [{"step": 0} | student["before"], *student["rounds"]]:
            for key, value in row.items():
                if key not in PLACE:
                    curves.setdefault(key, {}).setdefault(name, {})[row["step"]] = value
    return curves


def best_round(rounds: Sequence[tuple[str, Metrics]]) -> dict[str, Any] | None:
    """Return the first round with the smallest forward KL on held-out prompts, or None if no forward KL is finite."""
    finite = [(metrics["forward_kl"], id_) for id_, metrics in rounds if math.isfinite(metrics["forward_kl"])]
    if not finite:
        return None
    distance, id_ = min(finite, key=lambda pair: pair[0])
    return {"round": id_, "forward_kl": distance}


def costs_by_stage(costs: Mapping[str, Metrics]) -> dict[str, Any]:
    """Return runs, tokens and seconds of every kind of stage."""
    stages: dict[str, dict[str, Any]] = {}
    for name, cost in costs.items():
        total = stages.setdefault(_kind(name), {"runs": 0, "tokens": 0, "seconds": 0.0})
        total["runs"] += 1
        total["tokens"] += cost["tokens"]
        total["seconds"] = round(total["seconds"] + cost["seconds"], 3)
    return stages


def render_table(metrics: Metrics) -> str:
    """Return Markdown: models by quality, stages by cost, and a line about the store."""
    keys = _measured(metrics)
    models = [("teacher", metrics["teacher"])]
    for name, student in metrics["students"].items():
        rounds = [(f"{name}, {row['id']}", row) for row in student["rounds"]]
        models += [(f"{name}, before", student["before"]), *rounds]
    quality = [["model", *(measure(key).title for key in keys)]]
    quality += [[label, *(measure(key).show(row.get(key)) for key in keys)] for label, row in models]
    cost = [["stage", "runs", "tokens", "seconds", "tokens/s"]]
    for name, stage in metrics["cost"].items():
        rate = stage["tokens"] / stage["seconds"] if stage["seconds"] else 0.0
        cost.append([name, f"{stage['runs']}", f"{stage['tokens']:,}", f"{stage['seconds']:.1f}", f"{rate:,.0f}"])
    store = metrics["store"]
    lines = [
        markdown_table(quality),
        "",
        markdown_table(cost),
        "",
        f"{_seconds(metrics):.0f} s in all stages. Store: {store['positions']:,} positions, "
        f"{store['bytes_per_position']:.1f} bytes each; cache hits: {store['reused_share']:.1%} of the positions.",
        "KL in nats per token on each model's own held-out rollouts (dense, temperature 1).",
    ]
    return "\n".join(lines) + "\n"


def _measured(metrics: Metrics) -> list[str]:
    """Return the measures of any model: listed ones in the order of MEASURES, then all others."""
    models = [metrics["teacher"], *(student["before"] for student in metrics["students"].values())]
    keys = dict.fromkeys(key for model in models for key in model)
    return [key for key in MEASURES if key in keys] + [key for key in keys if key not in MEASURES]


def write_curves(file: TextIO, curves: Mapping[str, Mapping[int, Any]]) -> None:
    """Write a CSV for `dvc plots`: a row per step, a column per student, an empty cell where a student has no value.

    Args:
        file: The open file.
        curves: Student -> step -> value.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["step", *curves])
    for step in sorted(set().union(*curves.values())):
        writer.writerow([step, *(values.get(step, "") for values in curves.values())])
