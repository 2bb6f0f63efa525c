"""Read the pipeline as DVC knows it: its stages, their graph, and what dvc.lock records about each of them.

* Guarantee: no lock of DVC is taken, so that this works while `dvc repro` runs.
* Cost: about 1 s. DVC is imported when it is needed, because the report needs this module without it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import DataError

PLAN = "plan"  # the guard: it reads all of params.yaml, and its output is constant
_CODE = ("pipeline", "stages", "schemas")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """What dvc.lock records about the making of one output."""

    # Stages that made it or something that it was made from, in alphabetical order.
    stages: list[str]
    parameters: dict[str, Any]  # Their parameters by dotted key of params.yaml
    code: str  # Digest of every code file and directory that these stages depend on
    md5: str  # Hash of the output, as DVC writes it


def load_index(root: Path) -> Any:
    """Return DVC's index (`dvc.repo.index.Index`) of the dvc.yaml in `root`.

    Nothing has run where dvc.lock is missing or empty. DVC itself refuses an empty file, which a kill leaves behind.

    Raises:
        DataError: DVC cannot read dvc.yaml, rounds.yaml or dvc.lock, or two stages write the same file.
    """
    from dvc.dvcfile import load_file
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import Index

    root = root.resolve()
    try:
        pipeline = load_file(Repo(str(root), uninitialized=True), str(root / "dvc.yaml"))
        lock = root / "dvc.lock"
        if lock.is_file() and not lock.read_text(encoding="utf-8").strip():
            pipeline.lockfile_contents = {}
        index = Index(pipeline.repo, stages=list(pipeline.stages.values()))
        index.check_graph()
        return index
    except DvcException as error:
        remedy = "fix what DVC reports"
        raise DataError(root / "dvc.yaml", expected="a pipeline that DVC reads", got=error, remedy=remedy) from error


def stages_before(graph: Any, stage: Any) -> set[Any]:
    """Return the stages that a stage depends on, directly or through others; `graph` is DVC's."""
    import networkx as nx

    return set(nx.descendants(graph, stage))


def trace(index: Any, path: str) -> OutputRecord | None:
    """Return what dvc.lock records about everything behind an output.

    Args:
        index: The index of the project.
        path: The output, relative to the project.

    Returns:
        None where no stage of dvc.yaml has written this output.
    """
    output = next((out for out in index.outs if out.def_path == path and out.hash_info), None)
    if output is None:
        return None
    stages = [stage for stage in {output.stage, *stages_before(index.graph, output.stage)} if stage.name != PLAN]
    recorded = [(dep.def_path, dep.hash_info.value) for stage in stages for dep in stage.deps if dep.hash_info]
    code = {(dep, md5) for dep, md5 in recorded if isinstance(md5, str) and dep.split("/")[0] in _CODE}
    parameters = {key: value for _, params in recorded if isinstance(params, dict) for key, value in params.items()}
    return OutputRecord(
        stages=sorted(stage.name for stage in stages),
        parameters=dict(sorted(parameters.items())),
        code=hashlib.sha256(repr(sorted(code)).encode()).hexdigest(),
        md5=output.hash_info.value,
    )
