"""Estimate the disk space that the rest of a schedule takes: each round leaves a student and its optimizer.

* The sizes come from the headers of safetensors files; no weights are read.
* A student that is still to be pruned counts with all layers of the model that it is pruned from, its upper bound.
* The teacher's scores are small beside the students and are not counted.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.runtime.layout import Layout, round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.students import complete_student

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
    if source.lora is not None or source.config is not None:
        return None
    if source.model != "teacher":
        return _count_numbers(layout.root / source.model)
    model = params["teacher"]["model"]
    return _count_numbers(layout.teacher) or (_count_numbers(layout.root / model) if isinstance(model, str) else None)


def _count_numbers(directory: Path) -> int | None:
    """Return how many numbers the safetensors files of a model directory hold, None where there are none."""
    count = 0
    try:
        for path in directory.glob("*.safetensors"):
            with safe_open(path, framework="np") as tensors:
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return count or None
