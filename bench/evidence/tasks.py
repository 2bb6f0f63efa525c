"""What question 2 compares methods on: the tasks of params.yaml; the stories of question 1 are one more.

A task is the project of some presets, laid over each other, and the metric by which its methods are compared.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.evidence.mistakes import measure_student
from bench.evidence.places import WORK
from bench.evidence.runs import Setting, StartParams
from bench.evidence.stories import measure_by_judge
from bench.output import Row
from pipeline.runtime.config import AboveZero, Count, Positive, section
from pipeline.runtime.yaml_files import edit_yaml, overlay_yaml

_PARAMS, _PRESETS = Path("params.yaml"), Path("../../presets")
DEFAULT = _PRESETS / "default.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningParams:
    """The section `tuning` of params.yaml: the learning rates to choose from, on validation prompts."""

    seed: int
    """Seed of the start that they begin with, which is left out of results."""
    rates: tuple[AboveZero, ...]
    """Rates to begin with, in rising order."""
    most_rates: Positive
    """Rates tried at most: while the best one is the lowest or highest, the next one beyond it is tried too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParams:
    """An entry of the section `tasks` of params.yaml."""

    preset: str
    """Preset of presets/."""
    changes: str
    """File with the parameters that differ from the preset's."""
    data: str | None
    """Folder of the data set in STILLROOM_DATA; null for a task that needs none."""
    goal: str
    """Metric of the evaluation by which methods are compared, the larger the better, at temperature 1."""
    mistakes: Count | None
    """Beginnings of answers with a mistake, per training prompt, that the teacher learns from; null: not arithmetic."""
    start: StartParams
    tuning: TuningParams
    seeds: tuple[int, ...]
    """Seeds of starts, without that of the tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongerParams:
    """The section `longer` of params.yaml: more steps of some methods of a task."""

    task: str
    methods: tuple[str, ...]
    steps: Positive
    refresh: Positive
    """Steps between new completions."""
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """On-policy runs with every combination of these."""

    stores: tuple[str, ...]
    divergences: tuple[str, ...]
    refresh: tuple[Positive, ...]
    """Steps between new completions."""
    uses: tuple[Positive, ...]
    """Times that each completion is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessParams:
    """The section `staleness` of params.yaml: question 3."""

    seeds: tuple[int, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the commands need to know of a task or of the stories."""

    name: str
    """Beginning of the names of its files of rows."""
    methods: tuple[str, ...]
    project: str
    validation: str
    goal: str
    larger_is_better: bool
    measure: Callable[[Path], Row] | None
    start: StartParams
    tuning: TuningParams
    seeds: tuple[int, ...]

    def setting(self, project: str) -> Setting:
        """Return what runs on a project share."""
        return Setting(project=project, start=self.start, measure=self.measure)

    def best_rate(self, rows: list[Row]) -> float:
        """Return the learning rate of the row that is best by the goal."""
        sign = 1 if self.larger_is_better else -1
        return float(max(rows, key=lambda row: sign * row[self.goal])["rate"])

    def further_rates(self, rows: list[Row]) -> list[float]:
        """Return the rate to try after these rows of one method: the next one beyond the best, if that is at an end."""
        rates, best = sorted(row["rate"] for row in rows), self.best_rate(rows)
        if best not in (rates[0], rates[-1]) or not 1 < len(rates) < self.tuning.most_rates:
            return []
        neighbour = rates[1] if best == rates[0] else rates[-2]
        return [float(f"{best * best / neighbour:.1e}")]


def stories() -> Comparison:
    """Return the comparison of question 1."""
    return Comparison(
        name="stories",
        methods=section(_PARAMS, tuple[str, ...], "methods"),
        project="exact",
        validation="validation",
        goal="nats_per_byte",
        larger_is_better=False,
        measure=measure_by_judge,
        start=section(_PARAMS, StartParams, "start"),
        tuning=section(_PARAMS, TuningParams, "tuning"),
        seeds=section(_PARAMS, tuple[int, ...], "seeds"),
    )


def read_task(task: str) -> TaskParams:
    """Return the parameters of a task of question 2."""
    return section(_PARAMS, TaskParams, "tasks", task)


def comparison(task: str | None) -> Comparison:
    """Return the comparison on a task, or on the stories."""
    if task is None:
        return stories()
    p = read_task(task)
    return Comparison(
        name=task,
        methods=section(_PARAMS, tuple[str, ...], "task_methods"),
        project=task,
        validation=f"{task}-validation",
        goal=p.goal,
        larger_is_better=True,
        measure=None if p.mistakes is None else measure_student,
        start=p.start,
        tuning=p.tuning,
        seeds=p.seeds,
    )


def project_params(task: str) -> str:
    """Return the parameters of a task's project."""
    p = read_task(task)
    text = overlay_yaml(DEFAULT, _PRESETS / f"{p.preset}.yaml", Path(p.changes))
    if p.data is None:
        return text
    path = WORK / f"{task}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return edit_yaml(path, {("task", "settings", "data"): str(data_folder(p.data))})


def data_folder(name: str) -> Path:
    """Return a folder of STILLROOM_DATA."""
    return Path(os.environ.get("STILLROOM_DATA", "../../../shared/data")).resolve() / name
