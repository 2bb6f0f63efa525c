"""Summary of a run: metrics.json, its key figures for DVC's tables, curves for `dvc plots`, and the printed table."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.report.metric_titles import measure, rank
from pipeline.report.significance import warnings_of
from pipeline.runtime.text import markdown_table

Metrics = Mapping[str, Any]
_KL = ("forward_kl", "reverse_kl")
_OF_TOKENS = (*_KL, "top1_agreement", "teacher_logp", "reference_nll", "entropy")
_PLACE = ("id", "step", "steps_not_taken", "scored_positions")  # keys of a round in metrics.json that are no measures


def summarise(
    headline: str,
    best_by: str,
    teacher: Metrics,
    students: Mapping[str, Sequence[tuple[str, Metrics]]],
    costs: Mapping[str, Metrics],
    last_steps: Mapping[str, int],
    errors: Mapping[str, Metrics],
    changes: Mapping[str, Metrics],
    worse: Mapping[str, str | None],
) -> dict[str, Any]:
    """Return the content of metrics.json.

    Divergences are in nats per token. `bytes_per_position` counts the payload of every segment, metadata included. A
    round contains the step at its end, how many of its steps `schedule.max_staleness` skipped, and the number of
    positions of the fixed corpus and of the student's rollouts so far that have teacher scores, computed in this run
    or earlier.

    Args:
        headline: Name of the task's main metric.
        best_by: Name of the measure that decides which round is the best.
        teacher: The teacher's metrics.
        students: Name -> pairs of checkpoint and metrics, `init` first.
        costs: Costs by the name of the stage.
        last_steps: Round -> the optimizer step at its end.
        errors: The standard errors of the metrics, by `teacher` or STUDENT-CHECKPOINT; empty where they are unknown.
        changes: The changes of each student's metrics from before training to the last round.
        worse: The warning about each student that is worse, or worse in part, after the last round, or None.
    """
    stages = costs_by_stage(costs)
    tokens = {name: stage["tokens"] for name, stage in stages.items()}
    scored = [cost for cost in costs.values() if "positions" in cost]
    positions, reused, payload_bytes = (
        sum(cost[key] for cost in scored) for key in ("positions", "positions_reused", "payload_bytes")
    )
    return {
        "headline": headline,
        "teacher": dict(teacher),
        "students": {
            name: {
                "before": dict(evaluations[0][1]),
                "after": dict(evaluations[-1][1]),
                "rounds": _rounds(name, evaluations[1:], costs, last_steps),
                "best": best_round(evaluations[1:], best_by),
            }
            for name, evaluations in students.items()
        },
        "store": {
            "positions": positions,
            "payload_bytes": payload_bytes,
            "bytes_per_position": payload_bytes / positions if positions else 0.0,
            "reused_share": reused / positions if positions else 0.0,
            "teacher_tokens": _teacher_tokens(students, costs),
            "teacher_tokens_per_trained_token": tokens.get("score", 0) / max(1, tokens.get("train", 0)),
        },
        "cost": stages,
        "errors": {"teacher": dict(errors.get("teacher", {}))}
        | {
            name: {
                ("before" if id_ == "init" else id_): dict(errors.get(f"{name}-{id_}", {})) for id_, _ in evaluations
            }
            for name, evaluations in students.items()
        },
        "changes": {name: dict(of_student) for name, of_student in changes.items()},
        "worse": dict(worse),
        "warnings": [warning for cost in costs.values() for warning in cost.get("warnings", ())],
    }


def _teacher_tokens(students: Iterable[str], costs: Mapping[str, Metrics]) -> dict[str, int]:
    """Return the tokens that the teacher read to score the fixed corpus, and each student's rollouts."""
    tokens = {"corpus": 0} | dict.fromkeys(students, 0)
    for name, cost in costs.items():
        if name.endswith("-score"):
            owner = "corpus" if name == "corpus-score" else name.rsplit("-", 2)[0]  # `small` of `small-r1-score`
            tokens[owner] += cost["tokens"]
    return tokens


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


def key_figures(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Return a few final figures of metrics.json: rows of `dvc metrics show`.

    Each model has a row, and a second one with the standard errors; a last row has the costs. The names of the figures
    are those of every row, so that the table stays narrow.
    """
    ends = {"teacher": metrics["teacher"]} | {name: student["after"] for name, student in metrics["students"].items()}
    known = metrics["errors"]
    for name, student in metrics["students"].items():
        last = student["rounds"][-1]["id"] if student["rounds"] else "before"
        ends[f"{name}-error"] = known[name][last]
    ends["teacher-error"] = known["teacher"]
    keys = ("forward_kl", "reverse_kl", "top1_agreement", metrics["headline"], "reward", "eos_share")
    figures = {name: {key: float(f"{end[key]:.4g}") for key in keys if key in end} for name, end in ends.items() if end}
    costs = {"seconds": round(_seconds(metrics)), "scored_positions": metrics["store"]["positions"]}
    return figures | {"costs": costs}


def _seconds(metrics: Metrics) -> float:
    seconds: float = sum(stage["seconds"] for stage in metrics["cost"].values())
    return seconds


def checkpoints(student: Metrics) -> list[Metrics]:
    """Return the student's rows of metrics.json: before training, with step 0, and then each round."""
    return [{"id": "before", "step": 0, "scored_positions": 0} | student["before"], *student["rounds"]]


def measures(rows: Iterable[Metrics]) -> list[str]:
    """Return the names of all measures of these rows, in the order of their first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row if key not in _PLACE))


def quality_curves(metrics: Metrics, key: str) -> dict[str, dict[int, float]]:
    """Return student -> step -> value of a measure, for all checkpoints."""
    return {
        name: {row["step"]: row[key] for row in checkpoints(student)} for name, student in metrics["students"].items()
    }


def deciding_measure(objective: Mapping[str, Any], headline: str) -> str:
    """Return the KL divergence that the section `objective` trains; for another loss the task's main metric."""
    name = objective["divergence"]["name"]
    alone = objective["alpha"] == 1 and objective["cross_entropy"] < 1
    return name if alone and name in _KL else headline


def best_round(rounds: Sequence[tuple[str, Metrics]], name: str) -> dict[str, Any] | None:
    """Return the first best round on held-out prompts by a KL divergence or the task's main metric.

    Returns:
        The round and its value; None if no value is finite.
    """
    finite = [(metrics[name], id_) for id_, metrics in rounds if math.isfinite(metrics[name])]
    if not finite:
        return None
    value, id_ = (min if name in _KL else max)(finite, key=lambda pair: pair[0])
    return {"round": id_, name: value}


def costs_by_stage(costs: Mapping[str, Metrics]) -> dict[str, Any]:
    """Return runs, tokens and seconds of every kind of stage."""
    stages: dict[str, dict[str, Any]] = {}
    for name, cost in costs.items():
        kind = name.rpartition("-")[2]  # `score` of `small-r1-score`
        total = stages.setdefault(kind, {"runs": 0, "tokens": 0, "seconds": 0.0})
        total["runs"] += 1
        total["tokens"] += cost["tokens"]
        total["seconds"] = round(total["seconds"] + cost["seconds"], 3)
    return stages


def render_table(metrics: Metrics) -> str:
    """Return Markdown: models by quality, stages by cost, and a line about the store.

    Listed measures are in the order of MEASURES, and all others follow.
    """
    errors = metrics.get("errors", {})
    models = [("teacher", metrics["teacher"], errors.get("teacher", {}))]
    models += [
        (f"{name}, {row['id']}", row, errors.get(name, {}).get(row["id"], {}))
        for name, student in metrics["students"].items()
        for row in checkpoints(student)
    ]
    keys = sorted(measures(row for _, row, _ in models), key=rank)
    # Two tables are narrow enough for a terminal.
    parts = [[key for key in keys if (key in _OF_TOKENS) is of_tokens] for of_tokens in (True, False)]
    quality = [
        [
            ["model", *(measure(key).title for key in part)],
            *(
                [label, *(measure(key).show_with_error(row.get(key), error.get(key)) for key in part)]
                for label, row, error in models
            ),
        ]
        for part in parts
        if part
    ]
    cost = [["stage", "runs", "tokens", "seconds", "tokens/s"]]
    for name, stage in metrics["cost"].items():
        rate = stage["tokens"] / stage["seconds"] if stage["seconds"] else 0.0
        cost.append([name, f"{stage['runs']}", f"{stage['tokens']:,}", f"{stage['seconds']:.1f}", f"{rate:,.0f}"])
    store, warnings = metrics["store"], [f"warning: {text}\n" for text in warnings_of(metrics)]
    tables = "\n\n".join(map(markdown_table, quality))
    teacher_tokens = ", ".join(f"{name} {tokens:,}" for name, tokens in store["teacher_tokens"].items())
    return f"""{tables}

{markdown_table(cost)}

{_seconds(metrics):.0f} s in all stages. Store: {store["positions"]:,} positions, \
{store["bytes_per_position"]:.1f} bytes each; cache hits: {store["reused_share"]:.1%} of the positions.
Tokens that the teacher read to score: {teacher_tokens}. All students share the corpus.
KL in nats per token on each model's own held-out rollouts (dense, temperature 1). ± is the standard error over prompts.
{"".join(warnings)}"""


def curves_csv(curves: Mapping[str, Mapping[int, Any]]) -> str:
    """Return a CSV for `dvc plots`: a row per step, a column per student, an empty cell where a student has no value.

    Args:
        curves: Student -> step -> value.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *curves])
    for step in sorted(set().union(*curves.values())):
        writer.writerow([step, *(values.get(step, "") for values in curves.values())])
    return text.getvalue()
