"""dvc.lock: which stages made a file, and the parameters they ran with. Nothing is hashed and dvc is not asked.

Guarantee: what dvc.lock says, which is what ran; not what the files are now (`dvc status` tells that, in seconds).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.yaml_files import read_yaml

LOCK = "dvc.lock"
_CODE = ("pipeline", "stages", "schemas")
_GUARD = "plan"  # it reads all of params.yaml and its output is constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What dvc.lock knows about the making of one output."""

    stages: list[str]  # in alphabetical order
    parameters: dict[str, Any]  # of params.yaml, by dotted key
    code: str  # digest of every code file that the stages depend on
    md5: str  # of the output, as dvc names it


def read_lock(root: Path) -> dict[str, Any]:
    """Stage name to what dvc recorded; empty where nothing has run, or where a kill left an empty file."""
    path = root / LOCK
    if not path.is_file() or not path.read_text().strip():
        return {}
    stages: dict[str, Any] = read_yaml(path).get("stages", {})
    return stages


def trace(stages: Mapping[str, Any], out: str) -> Ran | None:
    """Everything behind an output, a path relative to the project; None where no stage made it."""
    made = {one["path"]: (name, one.get("md5", "")) for name, stage in stages.items() for one in stage.get("outs", [])}
    if out not in made:
        return None
    behind: set[str] = set()
    waiting = {made[out][0]}
    while waiting:
        name = waiting.pop()
        behind.add(name)
        needs = [one["path"] for one in stages[name].get("deps", [])]
        found = {maker for path, (maker, _) in made.items() for need in needs if _overlap(path, need)}
        waiting |= found - behind - {_GUARD}
    return Ran(
        stages=sorted(behind),
        parameters=dict(sorted(_parameters(stages, behind).items())),
        code=hashlib.sha256(repr(sorted(_code(stages, behind))).encode()).hexdigest(),
        md5=made[out][1],
    )


def _overlap(one: str, other: str) -> bool:
    """True when the paths are equal or one lies in the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _parameters(stages: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= stages[name].get("params", {}).get("params.yaml", {})
    return found


def _code(stages: Mapping[str, Any], names: set[str]) -> set[tuple[str, str]]:
    files = [one for name in names for one in stages[name].get("deps", [])]
    return {(one["path"], one["md5"]) for one in files if one["path"].split("/")[0] in _CODE}
