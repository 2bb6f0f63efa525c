"""The sections of params.yaml: projects, the tasks on which methods are compared, and the further runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.evidence.places import WORK
from bench.output import Row
from pipeline.runtime.config import AboveZero, Count, Positive, section
from pipeline.runtime.yaml_files import edit_yaml, overlay_yaml

PARAMS = Path("params.yaml")
DEFAULT = Path("../../presets/default.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectParams:
    """An entry of the section `projects`."""

    preset: str
    """File with the parameters that differ from the default job's."""
    changes: str
    """File with the parameters that differ from the preset's."""
    data: str | None
    """Folder of the data set in STILLROOM_DATA; null where the parameters name it, or the task needs none."""
    mistakes: Count
    """Beginnings of answers with a mistake, per training problem, that a tuned teacher learns from."""
    needs: str
    """Another file that the project depends on; only dvc.yaml uses this key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartParams:
    """The training before the comparison."""

    steps: Positive
    learning_rate: AboveZero


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningParams:
    """The learning rates to choose from, on validation prompts."""

    seed: int
    """Seed of the start that they begin with, which is left out of results."""
    rates: tuple[AboveZero, ...]
    """Rates to begin with, in rising order."""
    most_rates: Positive
    """Rates tried at most: while the best one is the lowest or highest, the next one beyond it is tried too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParams:
    """An entry of the section `tasks`, whose project has the same name."""

    methods: tuple[str, ...]
    goal: str
    """Metric by which methods are compared."""
    larger_is_better: bool
    measures: Literal["judge", "repairs"] | None
    """What is measured beside the evaluation: the judge of stories, or how answers go on after a mistake."""
    start: StartParams
    tuning: TuningParams
    seeds: tuple[int, ...]
    """Seeds of starts, without that of the tuning."""

    def best_rate(self, rows: list[Row]) -> float:
        """Return the learning rate of the row that is best by the goal."""
        sign = 1 if self.larger_is_better else -1
        return float(max(rows, key=lambda row: sign * row[self.goal])["rate"])

    def next_rate(self, rows: list[Row]) -> float | None:
        """Return the rate to try after the rows of one method: the next one beyond the best, if that is at an end."""
        rates, best = sorted(row["rate"] for row in rows), self.best_rate(rows)
        if best not in (rates[0], rates[-1]) or len(rates) == 1 or len(rates) >= self.tuning.most_rates:
            return None
        neighbour = rates[1] if best == rates[0] else rates[-2]
        return float(f"{best * best / neighbour:.1e}")  # as far from the best as its neighbour, by factors


@dataclass(frozen=True, slots=True, kw_only=True)
class FewParams:
    """The section `few`: methods that are compared from these starts alone."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LongerParams:
    """The section `longer`: more steps of some methods of a task."""

    task: str
    methods: tuple[str, ...]
    rate: AboveZero
    steps: Positive
    refresh: Positive
    """Steps between new completions."""
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Runs with every combination of these."""

    projects: tuple[str, ...]
    methods: tuple[str, ...]
    refresh: tuple[Positive, ...]
    """Steps between new completions."""
    uses: tuple[Positive, ...]
    """Times that each completion is trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleParams:
    """The section `stale`: question 3."""

    seeds: tuple[int, ...]
    grids: tuple[Grid, ...]


def read_task(task: str) -> TaskParams:
    """Return the parameters of a task."""
    return section(PARAMS, TaskParams, "tasks", task)


def read_project(name: str) -> ProjectParams:
    """Return the parameters from which a project is made."""
    return section(PARAMS, ProjectParams, "projects", name)


def project_params(name: str) -> str:
    """Return the content of a project's params.yaml."""
    p = read_project(name)
    text = overlay_yaml(DEFAULT, Path(p.preset), Path(p.changes))
    if p.data is None:
        return text
    path = WORK / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return edit_yaml(path, {("task", "settings", "data"): str(data_folder(p.data))})


def data_folder(name: str) -> Path:
    """Return a folder of STILLROOM_DATA."""
    return Path(os.environ.get("STILLROOM_DATA", "../../../shared/data")).resolve() / name
