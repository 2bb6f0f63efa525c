"""Estimate the disk space that the rest of a schedule takes: each round leaves a student, and the newest an optimizer.

* The sizes come from the headers of safetensors files; no weights are read.
* A student that is still to be pruned counts with all layers of the model that it is pruned from, its upper bound.
* An adapter that is still to be made counts the two matrices of each weight that it changes.
* The teacher's scores are small beside the students and are not counted.
* Where DVC's cache holds copies in place of links, every output of a stage counts twice.
* Training needs more than it leaves, because new files are complete before those that they replace are deleted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.models.lora import LoraParams
from pipeline.runtime.layout import Layout, round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.training.optimizer import OptimizerParams
from pipeline.workspace.students import complete_student

_NO_ADAPTER = ("embed", "lm_head", "shared", "wte", "wpe")  # parts of names: tables of tokens and places, and heads
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeeds:
    """The bytes that rounds leave, and those that they need at most for a time."""

    models: int
    optimizers: int
    copies: int  # What DVC's cache holds of them once more; 0 where it links to them
    passing: int  # What a round needs beside them until it ends

    @property
    def total(self) -> int:
        """The sum."""
        return self.models + self.optimizers + self.copies + self.passing


def round_bytes(p: OptimizerParams, numbers: int, rounds: int, steps: int, *, linked: bool) -> DiskNeeds:
    """Return what the rounds of a student need.

    Args:
        p: The optimizer of the student.
        numbers: How many numbers the student trains.
        rounds: The number of rounds.
        steps: The steps of the longest round.
        linked: Whether DVC's cache links to outputs.
    """
    # A state has two moments of each weight, its raw value where the model is an average, and its value in float32
    # where the model has fewer bits.
    averaged, rounded = p.ema_decay is not None, p.save_dtype != "float32"
    weights = _BYTES["float32"] * numbers
    models, state = _BYTES[p.save_dtype] * numbers * rounds, (2 + averaged + rounded) * weights
    kept = rounds if p.keep_rounds is None else min(rounds, p.keep_rounds)
    cached = 0 if linked else models + (kept * state if p.keep_rounds is None else 0)
    # The oldest state goes after the new one has come. The last checkpoint of a round, which becomes its outputs, has
    # the weights in float32 too, and is complete before an earlier checkpoint goes.
    earlier = (3 + averaged) * weights if p.save_steps < steps else 0
    passing = (state if kept < rounds else 0) + (weights if rounded else 0) + earlier
    return DiskNeeds(models=models, optimizers=kept * state, copies=cached, passing=passing)


def rest_bytes(root: Path, rounds: Mapping[str, int] | None = None) -> DiskNeeds | None:
    """Return the bytes that the remaining rounds of all students need, of which one at a time trains.

    Args:
        root: The directory of the project.
        rounds: The number of rounds left by student; by default the rounds that have no model directory.

    Returns:
        None where the size of a model cannot be known yet, such as the size of a model on the hub or in a GGUF file.

    Raises:
        ParameterError: params.yaml or rounds.yaml is missing.
    """
    layout = Layout(root)
    params, schedule = read_yaml(layout.params), round_list(read_yaml(layout.rounds))
    if rounds is None:
        rounds = {
            student: sum(not layout.round(student, item["id"]).model.is_dir() for item in schedule)
            for student in params["students"]
        }
    needs, linked, steps = [], links_to_outputs(root), max(item["steps"] for item in schedule)
    for student, count in rounds.items():
        size = _trained_numbers(layout, student, params) if count else 0
        if size is None:
            return None
        needs.append(round_bytes(complete_student(params, student)[1], size, count, steps, linked=linked))
    return DiskNeeds(
        models=sum(need.models for need in needs),
        optimizers=sum(need.optimizers for need in needs),
        copies=sum(need.copies for need in needs),
        passing=max((need.passing for need in needs), default=0),
    )


def cache_types(root: Path) -> list[str]:
    """Return how DVC's cache shall share files with the project, the first choice first."""
    return list(_cache_settings(root).get("type", ("reflink", "copy")))


def links_to_outputs(root: Path) -> bool:
    """Return whether DVC's cache links to outputs, which then take no space of their own there.

    Only the first of the choices counts, because DVC copies directories where it is neither `hardlink` nor `symlink`.
    Reflinks, which few file systems have, count as copies.
    """
    first, cache = cache_types(root)[0], Path(root, ".dvc", _cache_settings(root).get("dir", "cache")).resolve()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    return first == "symlink" or (first == "hardlink" and existing.stat().st_dev == root.resolve().stat().st_dev)


def _cache_settings(root: Path) -> dict[str, Any]:
    """Return the section `cache` of DVC's configuration."""
    from dvc.config import Config

    return dict(Config(dvc_dir=str(root.resolve() / ".dvc"))["cache"])


def _trained_numbers(layout: Layout, student: str, params: dict[str, Any]) -> int | None:
    """Return how many numbers a student trains."""
    start = layout.round(student, "init").model
    if start.is_dir():
        return _count_numbers(start)
    source, _ = complete_student(params, student)
    if source.config is not None:
        return None
    model = params["teacher"]["model"] if source.model == "teacher" else source.model
    made = _shapes(layout.teacher) if source.model == "teacher" else {}
    shapes = made or (_shapes(layout.root / model) if isinstance(model, str) else {})
    if source.lora is None:
        return sum(map(math.prod, shapes.values())) or None
    return _adapter_numbers(shapes, source.lora) or None


def _adapter_numbers(shapes: Mapping[str, Sequence[int]], p: LoraParams) -> int:
    """Return how many numbers an adapter has for a model with tensors of these names and shapes."""
    names = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]
    if p.target_modules == "all-linear":
        adapted = [name for name in names if not any(part in name for part in _NO_ADAPTER)]
    else:
        adapted = [name for name in names if name.split(".")[-2] in p.target_modules]
    return sum(p.r * sum(shapes[name]) for name in adapted)


def _count_numbers(directory: Path) -> int | None:
    """Return how many numbers the safetensors files of a model directory hold, None where there are none."""
    return sum(map(math.prod, _shapes(directory).values())) or None


def _shapes(directory: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in the safetensors files of a model directory; empty where there are none."""
    shapes: dict[str, list[int]] = {}
    try:
        for path in directory.glob("*.safetensors"):
            with safe_open(path, framework="np") as tensors:
                shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return {}
    return shapes
