"""Projects with the real dvc.yaml and a small stand-in for every file: DVC records stages that were never run."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from dvc.repo import Repo

from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from pipeline.workspace.students import write_students

ROOT = Path(__file__).parents[1]
_CONFIG = """[core]
    no_scm = true
    analytics = false
    site_cache_dir = {0}
"""


def make_dvc_project(
    root: Path, *, students: Sequence[str] = ("a",), tuned: Sequence[str] = (), total_steps: int = 15
) -> Path:
    """Write a project in which nothing has run: the real dvc.yaml, and params.yaml with the real parameters."""
    root.mkdir(exist_ok=True)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    params = read_yaml(ROOT / "params.yaml")
    params["student"] = dict.fromkeys(students, params["student"]["small"])
    write_yaml(root / "params.yaml", params | {"students": [*students]}, comment="Of a test.")
    schedule = ScheduleParams(total_steps=total_steps, refresh_every=10, max_staleness=None)
    write_rounds(root / "rounds.yaml", schedule, students, tuned)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text(_CONFIG.format(root / ".dvc/site"), encoding="utf-8")
    return root


def record_stages(root: Path, *names: str) -> None:
    """Write the dependencies and outputs of these stages, all of them by default, and let DVC record that they ran."""
    repo = Repo(str(root))
    stages = [stage for stage in repo.index.stages if not names or stage.name in names]
    for file in [file for stage in stages for file in (*stage.outs, *stage.deps)]:
        path = Path(file.fs_path)
        if not path.suffix:
            path = path / "content.py"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.def_path, encoding="utf-8")
    write_students(Layout(root))
    with contextlib.chdir(root):
        for name in names or [None]:
            repo.commit(name, force=True)
