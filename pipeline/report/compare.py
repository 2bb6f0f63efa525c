"""`stillroom compare`: several runs in one page, each out of a directory or a revision."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.page.page import comparison_page
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import read_json, replacing

METRICS = "report/metrics.json"
_PARTS = ("teacher", "students", "store", "cost")
_REMEDY = "name a checkout, a metrics.json, or a revision or experiment of this repository whose dvc.lock is committed"


def write_comparison(runs: Sequence[str], out: Path) -> int:
    """The page of these runs, by the names they were asked for; returns its size in bytes."""
    page = comparison_page({name: read_run(name) for name in runs})
    with replacing(out) as temporary:
        temporary.write_text(page)
    return out.stat().st_size


def read_run(name: str) -> dict[str, Any]:
    """metrics.json of a directory, of itself, or of what Git and DVC know by this name."""
    path = Path(name)
    if path.is_dir():
        path /= METRICS
    metrics = read_json(path) if path.exists() or path.name.endswith(".json") else _of_revision(name)
    missing = [one for one in _PARTS if not isinstance(metrics, dict) or one not in metrics]
    if missing:
        raise DataError(name, expected=f"metrics with {missing[0]}", got="none", remedy="run `make repro` there")
    return dict(metrics)


def _of_revision(name: str) -> Any:
    """DVC gives a file of another revision without checking it out; it says in many ways that it cannot."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        return json.loads(DVCFileSystem(rev=name).read_text(METRICS))
    except (DvcException, SCMError, OSError, ValueError) as error:
        got = " ".join(str(error).split()) or type(error).__name__
        raise DataError(name, expected=f"{METRICS} there", got=got, remedy=_REMEDY) from error
