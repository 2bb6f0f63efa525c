"""Train the starts and the runs that the questions compare.

* A start is a student after so many off-policy steps that more of them change nothing. Its seed sets the order of
  batches, and the weights of a new model. A run begins with a start and trains with a method: DATA-DIVERGENCE, such as
  off-forward_kl or on-jsd-0.5.
* Guarantee: the row of a run that exists with equal parameters is returned, so an interrupted stage loses the runs in
  progress.
"""

import shutil
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from bench.clock import now, since
from bench.end_to_end.methods import DONE, SHARED, distil, link, make_start, prepare
from bench.evidence.mistakes import measure_student
from bench.evidence.places import STUDENT, WORK, Changes, inside, last_round, project
from bench.evidence.stories import measure_by_judge
from bench.evidence.tasks import StartParams, TaskParams
from bench.output import Row
from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import edit_yaml, read_yaml

ROW = "row.json"
_FRACTIONS = {"off": 0.0, "mixed": 0.5, "on": 1.0}  # of the student's own completions (GKD's lambda)
_MEASURES = {"judge": measure_by_judge, "repairs": measure_student}


def method_changes(method: str, rate: float, document: Mapping[str, Any], schedule: Mapping[str, int]) -> Changes:
    """Return what a method changes in the parameters of a project.

    Args:
        method: The data and the divergence.
        rate: The learning rate.
        document: The parameters of the project.
        schedule: What differs from them: `steps`, `refresh` (steps between new completions), and `uses`, the number of
            times that each completion is trained on (default 1).
    """
    data, _, divergence = method.partition("-")
    name, _, beta = divergence.partition("-")
    steps = schedule.get("steps", document["schedule"]["total_steps"])
    refresh = schedule.get("refresh", document["schedule"]["refresh_every"]) if _FRACTIONS[data] else steps
    completions = ceil(_FRACTIONS[data] * refresh * document["batches"]["batch_size"] / schedule.get("uses", 1))
    samples = max(1, ceil(completions / document["task"]["train"]))
    changes: Changes = {
        ("schedule", "total_steps"): steps,
        ("schedule", "refresh_every"): refresh,
        ("rollout", "prompts"): ceil(completions / samples),
        ("rollout", "samples_per_prompt"): samples,
        ("batches", "student_fraction"): _FRACTIONS[data],
        ("objective", "divergence", "name"): name,
        ("optimizer", "learning_rate"): rate,
        ("optimizer", "decay_steps"): steps,
    }
    return changes | ({("objective", "divergence", "beta"): float(beta)} if beta else {})


def _params(name: str, method: str, rate: float, seed: int, **schedule: int) -> str:
    path = Layout(project(name)).params
    return edit_yaml(path, {("seed",): seed} | method_changes(method, rate, read_yaml(path), schedule))


def train_start(name: str, p: StartParams, seed: int) -> Path:
    """Return the directory of a start of a project, which is trained unless it is there; its round is r1."""
    home = WORK / "starts" / f"{name}-{seed}"
    params = _params(name, "off-forward_kl", p.learning_rate, seed, steps=p.steps)
    if prepare(home, params, project(name).resolve(), SHARED):
        with inside(home):
            make_start(STUDENT)
            distil(STUDENT)
        Layout(home).round(STUDENT, "r1").optimizer.unlink()  # twice the size of the model, and no run reads it
        (home / DONE).touch()
    return home


def start_row(name: str, p: TaskParams, seed: int) -> Row:
    """Return the row of a start, which is trained unless it is there."""
    row = {"method": "start", "project": name, "seed": seed}
    return row | _measured(p, train_start(name, p.start, seed))


def run_method(name: str, p: TaskParams, method: str, rate: float, seed: int, start: Path, **schedule: int) -> Row:
    """Return the row of a method on a project, from a start, with a learning rate and a schedule."""
    parts = (name, method, f"{rate:g}", str(seed), *(f"{key}{value}" for key, value in schedule.items()))
    home = WORK / "runs" / "-".join(parts)
    of_start = f"# from a start of {p.start.steps} steps at {p.start.learning_rate:g}\n"
    params = _params(name, method, rate, seed, **schedule) + of_start
    if prepare(home, params, project(name).resolve(), SHARED):
        measures = f"work/evaluations/prompts/{STUDENT}"
        for part, origin in (
            (f"work/{STUDENT}/base", f"work/{STUDENT}/base"),
            (f"work/{STUDENT}/init", f"work/{STUDENT}/r1"),
            (f"{measures}-init.parquet", f"{measures}-r1.parquet"),
        ):
            link(home / part, (start / origin).resolve())
        began = now()
        with inside(home):
            distil(STUDENT)
        spent = since(began)
        row = {"method": method, "project": name, "rate": rate, "seed": seed, "uses": schedule.get("uses", 1)}
        plan = read_yaml(Layout(home).params)["schedule"]
        row |= {"steps": plan["total_steps"], "refresh": plan["refresh_every"]}
        write_json(home / ROW, row | _measured(p, home) | spent)
        for part in ("work", "logs", ".store"):
            shutil.rmtree(home / part, ignore_errors=True)
        (home / DONE).touch()
    return dict(read_json(home / ROW))


def _measured(p: TaskParams, home: Path) -> Row:
    """Return the metrics of the last checkpoint of a run or a start, and what the task measures beside them."""
    metrics: Row = read_json(Layout(home).evaluation(f"{STUDENT}-{last_round(home)}"))["metrics"]
    return metrics | (_MEASURES[p.measures](home) if p.measures else {})
