"""Which stages DVC runs again after an edit of one package of the code.

The test builds a DVC project with the committed dvc.yaml, parameters and code. It writes constant files in place of
every output and commits them, so that no stage has to run. Each case then edits one source file, asks DVC which stages
have a changed dependency, and restores the file. A stage is listed where one of its own dependencies has changed, not
where an earlier stage might write another output.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from tests.project import ROOT

COPIED = ("dvc.yaml", "rounds.yaml", "params.yaml", ".dvcignore", "pipeline", "stages", "schemas", "requirements")
PAGE = ROOT / "docs" / "architecture.md"

RERUNS = {
    "pipeline/losses": "train x3",
    "pipeline/training": "train x3",
    "pipeline/report": "report",
    "pipeline/store": "score x4, train x3",
    "pipeline/scoring": "score x4",
    "pipeline/rollout": "generate, rollout x3, evaluate x5",
    "pipeline/evaluation": "evaluate x5",
    "pipeline/tasks": "prepare, evaluate x5",
    "pipeline/metrics": "prepare, rollout x3, evaluate x5",
    "pipeline/checkpoints": "teacher, init",
    "pipeline/models": "teacher, init, generate, rollout x3, score x4, train x3, evaluate x5",
    "pipeline/models/tokenizer.py": "teacher, prepare, init, generate, rollout x3, score x4, train x3, evaluate x5",
    "pipeline/core": "prepare, generate, rollout x3, score x4, train x3, evaluate x5",
    "pipeline/core/hashing.py": "teacher, prepare, init, generate, rollout x3, score x4, train x3, evaluate x5",
    "pipeline/workspace": "plan",
    "pipeline/store_admin": "nothing",
    "pipeline/runtime": "nothing",
    "pipeline/lineage": "report",
    "stages/cli": "nothing",
}
"""The stages that an edit runs again, in the default job: one student and three rounds. docs/architecture.md has it."""

RERUNS_WITH_SFT = {
    "pipeline/losses": "sft, train x3",
    "pipeline/training": "sft, train x3",
    "pipeline/store": "sft, score x4, train x3",
    "pipeline/checkpoints": "teacher, init, sft",
    "pipeline/scoring": "score x4",
}
"""The same where params.yaml has an entry in `sft` for the student."""


@contextmanager
def committed_outputs(root: Path, tuning: dict[str, Any]) -> Iterator[Repo]:
    """Yield a DVC project at `root` that is up to date, with `tuning` as the section `sft` of its parameters."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    params = read_yaml(root / "params.yaml") | {"sft": tuning}
    write_yaml(root / "params.yaml", params, comment="The parameters of a test.")
    write_rounds(root / "rounds.yaml", ScheduleParams(**params["schedule"]), params["students"], params["sft"])
    with chdir(root), Repo.init(no_scm=True) as repo:
        for output in (output for stage in repo.index.stages for output in stage.outs):
            path = Path(output.fs_path)
            path = path if path.suffix else path / "ranks.npy"  # the one file of a directory that a stage depends on
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(output.def_path, encoding="utf-8")
        repo.commit(force=True)
    with Repo(str(root)) as repo:
        assert repo.status() == {}
        yield repo


@pytest.fixture(scope="module")
def default_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """The default job, of which nothing has to run."""
    with committed_outputs(tmp_path_factory.mktemp("default"), {}) as repo:
        yield repo


@pytest.fixture(scope="module")
def job_with_sft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    """The default job whose student is fine-tuned first."""
    with committed_outputs(tmp_path_factory.mktemp("sft"), {"small": {"steps": 1}}) as repo:
        yield repo


def source_file(root: Path, edited: str) -> Path:
    """Return the file to edit: the path itself, or the first module of a package."""
    path = root / edited
    return path if path.is_file() else min(file for file in path.glob("*.py") if not file.name.startswith("__"))


def stages_to_rerun(repo: Repo, edited: str) -> str:
    """Return the stages with a changed dependency after an edit, in the words of the tables above."""
    file = source_file(Path(repo.root_dir), edited)
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n# edited\n", encoding="utf-8")
    counts = Counter(
        stage_name(stage) for stage in repo.index.stages if any(dependency.status() for dependency in stage.deps)
    )
    file.write_text(text, encoding="utf-8")
    names = [name for name in read_yaml(ROOT / "dvc.yaml")["stages"] if name in counts]
    return ", ".join(name if counts[name] == 1 else f"{name} x{counts[name]}" for name in names) or "nothing"


def stage_name(stage: Any) -> str:
    """Return the name in dvc.yaml: `train` for `train@small-r1`."""
    return str(stage.name).partition("@")[0]


@pytest.mark.parametrize("edited", RERUNS)
def test_an_edit_reruns_the_stages_that_use_it(default_job: Repo, edited: str) -> None:
    assert stages_to_rerun(default_job, edited) == RERUNS[edited]


@pytest.mark.parametrize("edited", RERUNS_WITH_SFT)
def test_an_edit_reruns_sft_where_it_is_configured(job_with_sft: Repo, edited: str) -> None:
    assert stages_to_rerun(job_with_sft, edited) == RERUNS_WITH_SFT[edited]


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert packages | {"stages/cli"} == {edited for edited in RERUNS if not edited.endswith(".py")}


def test_the_documentation_has_this_table() -> None:
    """The table of the page has one or more packages per row, in backticks, and the stages that run again."""
    rows = re.findall(r"^\| (`(?:pipeline|stages)/.*`) \| ([^|]+?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {path: stages for paths, stages in rows for path in re.findall("`([^`]+)`", paths)} == RERUNS
