"""The files behind `stillroom lineage`: a model directory, and the project around it."""

from pathlib import Path
from typing import Any

from pipeline.card import model_card
from pipeline.errors import DataError
from pipeline.lineage import FILE, read_lineage
from pipeline.lockfile import Ran, read_lock, trace
from pipeline.story import as_json, as_text
from pipeline.tables import read_json
from schemas.lineage import Lineage
from stages.command import COSTS


def tell(model: Path, *, to_json: bool) -> dict[str, Any] | str:
    """What is known about a model directory, as a value or in words."""
    lineage, root = _lineage(model), _project(model)
    costs = {one.stem: read_json(one) for one in (root / COSTS).glob("*.json")} if root else {}
    ran = _ran(model, root) if root else None
    return as_json(lineage, costs, ran) if to_json else as_text(lineage, costs, ran)


def card(model: Path) -> str:
    """The model card with the figures of the evaluation, where there is one."""
    lineage, root = _lineage(model), _project(model)
    if not lineage.rounds:
        raise DataError(model, expected="a trained student", got="no round", remedy="name work/STUDENT/ROUND/model")
    measured = root / f"work/evaluations/{lineage.student}/{lineage.rounds[-1].id}.json" if root else None
    found = read_json(measured)["metrics"] if measured and measured.is_file() else {}
    return model_card(lineage, {name: one for name, one in found.items() if isinstance(one, int | float)})


def _lineage(model: Path) -> Lineage:
    lineage = read_lineage(model)
    if lineage is None:
        remedy = "name a model directory that this pipeline made"
        raise DataError(model, expected=f"a directory with {FILE}", got="none", remedy=remedy)
    return lineage


def _project(model: Path) -> Path | None:
    return next((one for one in model.resolve().parents if (one / "dvc.yaml").is_file()), None)


def _ran(model: Path, root: Path) -> Ran | None:
    return trace(read_lock(root), model.resolve().relative_to(root).as_posix())
