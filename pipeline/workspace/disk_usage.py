"""How much disk the rest of a schedule takes: every round leaves a student and its optimizer in DVC's cache.

Guarantee: read from the headers of safetensors files, no weights; None where a model is not here yet (a hub name, a
GGUF file). A student that is still to be cut counts as the whole of what it is cut from, the most it can be; the
teacher's scores are small beside it and not counted.
"""

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.report.jobs import round_list
from pipeline.runtime.yaml_files import read_yaml

_NUMBER = 4  # bytes: all is in float32


def rest_bytes(root: Path) -> int | None:
    """What the rounds without a model will leave, of all students; None where a size cannot be known."""
    params, rounds = read_yaml(root / "params.yaml"), round_list(read_yaml(root / "rounds.yaml"))
    sizes = [_student(root, name, params) for name in params["students"]]
    left = [
        sum(not (root / f"work/{name}/{one['id']}/model").is_dir() for one in rounds) for name in params["students"]
    ]
    if any(size is None and count for size, count in zip(sizes, left, strict=True)):
        return None
    numbers = 3 if params["optimizer"]["ema_decay"] is None else 4  # weight, two moments and what is averaged
    return sum(_NUMBER * numbers * (size or 0) * count for size, count in zip(sizes, left, strict=True))


def _student(root: Path, name: str, params: dict[str, Any]) -> int | None:
    """The weights that a student trains."""
    started = root / f"work/{name}/init/model"
    if started.is_dir():
        return _parameters(started)
    source = params["student"][name]
    if source["lora"] is not None or source["config"] is not None:
        return None
    if source["model"] != "teacher":
        return _parameters(root / source["model"])
    copied, given = root / "work/teacher", params["teacher"]["model"]
    return _parameters(copied) or (_parameters(root / given) if isinstance(given, str) else None)


def _parameters(directory: Path) -> int | None:
    """How many numbers a model directory's files hold."""
    files = sorted(directory.glob("*.safetensors"))
    try:
        return sum(map(_numbers, files)) if files else None
    except (OSError, SafetensorError):
        return None


def _numbers(file: Path) -> int:
    with safe_open(file, framework="np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
