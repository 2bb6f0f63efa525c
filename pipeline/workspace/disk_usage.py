"""Estimate the disk space that the rest of a schedule takes: each round leaves a student and its optimizer.

* The sizes come from the headers of safetensors files; no weights are read.
* A student that is still to be pruned counts with all layers of the model that it is pruned from, its upper bound.
* An adapter that is still to be made counts the two matrices of each weight that it changes.
* The teacher's scores are small beside the students and are not counted.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.models.lora import LoraParams
from pipeline.runtime.layout import Layout, round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.students import complete_student

_NO_ADAPTER = ("embed", "lm_head", "shared", "wte", "wpe")  # parts of names: tables of tokens and places, and heads
_BYTES_PER_NUMBER = 4  # weights, moments and averages are all float32


def rest_bytes(root: Path, rounds: Mapping[str, int] | None = None) -> int | None:
    """Return the bytes that the remaining rounds of all students leave in DVC's cache.

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
    total = 0
    for student, count in rounds.items():
        size = _trained_numbers(layout, student, params) if count else 0
        if size is None:
            return None
        # A round stores the weights, two moments of each, and their running average where there is one.
        copies = 3 if complete_student(params, student)[1].ema_decay is None else 4
        total += _BYTES_PER_NUMBER * copies * size * count
    return total


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
