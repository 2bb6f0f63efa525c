"""`stillroom compare`: one page about several runs, each read from a directory, a file or a revision."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.report.page.page import comparison_page
from pipeline.runtime.atomic import replacing
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import read_json

METRICS = "report/metrics.json"
_PARTS = ("teacher", "students", "store", "cost")
_REMEDY = "name a checkout, a metrics.json, or a revision or experiment of this repository whose dvc.lock is committed"


def write_comparison(runs: Sequence[str], out: Path) -> int:
    """Write the page about runs, and return its size in bytes.

    Args:
        runs: Names that `read_run` accepts; the page shows each run under this name.
        out: The file to write.

    Raises:
        DataError: A name is no run.
    """
    page = comparison_page({name: read_run(name) for name in runs})
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out.stat().st_size


def read_run(name: str) -> dict[str, Any]:
    """Return metrics.json of a run.

    Args:
        name: A directory with a run, a JSON file, or a revision or experiment that Git and DVC know.

    Raises:
        DataError: The name is none of these, or the file has other content.
    """
    path = Path(name)
    if path.is_dir():
        path /= METRICS
    metrics = read_json(path) if path.exists() or path.name.endswith(".json") else _read_revision(name)
    missing = [part for part in _PARTS if not isinstance(metrics, dict) or part not in metrics]
    if missing:
        remedy = "run `make repro` in that checkout"
        raise DataError(name, expected=f"metrics with {missing[0]}", got="none", remedy=remedy)
    return dict(metrics)


def _read_revision(name: str) -> Any:
    """Read metrics.json of a revision through DVC, without checking it out; DVC fails with many exceptions."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        return json.loads(DVCFileSystem(rev=name).read_text(METRICS, encoding="utf-8"))
    except (DvcException, SCMError, OSError, ValueError) as error:
        got = " ".join(str(error).split()) or type(error).__name__
        raise DataError(name, expected=f"{METRICS} there", got=got, remedy=_REMEDY) from error
