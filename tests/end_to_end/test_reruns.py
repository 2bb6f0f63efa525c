"""Which stages DVC runs again after an edit of one package of the code, or of one parameter.

The test builds a DVC project with the committed dvc.yaml, parameters and code. It writes constant files in place of
every output and commits them, so that no stage has to run. Each case then edits one file, asks DVC which stages
have a changed dependency, and restores the file. A stage is listed where one of its own dependencies has changed, not
where an earlier stage might write another output.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from pipeline.workspace.students import write_students
from tests.project import ROOT

COPIED = ("dvc.yaml", "rounds.yaml", "params.yaml", ".dvcignore", "pipeline", "stages", "schemas", "requirements")
PARTS = ("train.parquet", "heldout.parquet", "ranks.npy")
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
    "pipeline/checkpoints/student.py": "plan, teacher, init",
    "pipeline/models/lora.py": "plan, teacher, init, generate, rollout x3, score x4, train x3, evaluate x5",
    "pipeline/models/tokenizer": "teacher, prepare, init, generate, rollout x3, score x4, train x3, evaluate x5",
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


PARAMETER_RERUNS = {
    "seed": "prepare, init, generate, rollout x3, train x3, evaluate x5",
    "schedule.total_steps": "nothing",
    "schedule.refresh_every": "nothing",
    "students": "nothing",
    "schedule.max_staleness": "train x3",
    "task.train": "prepare",
    "task.heldout": "prepare",
    "task.max_prompt_tokens": "prepare",
    "task.template": "prepare",
    "task.settings": "prepare, train x3",
    "task.name": "prepare, train x3, evaluate x5",
    "teacher": "teacher",
    "student.small": "init",
    "sft": "nothing",
    "corpus": "generate",
    "rollout.prompts": "rollout x3",
    "rollout.samples_per_prompt": "rollout x3",
    "rollout.batch_size": "generate, rollout x3",
    "rollout.precision": "generate, rollout x3",
    "rollout.sampling.max_new_tokens": "generate, rollout x3",
    "rollout.sampling.temperature": "generate, rollout x3, train x3",
    "rollout.sampling.top_p": "generate, rollout x3, train x3",
    "rollout.sampling.record_threshold": "rollout x3",
    "rollout.sampling.record_max": "rollout x3",
    "rollout.sampling.record_tail_samples": "rollout x3",
    "reward": "rollout x3, evaluate x5",
    "scoring.precision": "score x4",
    "scoring.batch_size": "score x4",
    "scoring.codec": "score x4",
    "scoring.truncation": "score x4",
    "scoring.flush_every": "nothing",
    "objective": "train x3",
    "batches": "train x3",
    "replay.rounds": "rollout x3, train x3",
    "replay.max_age": "rollout x3, train x3",
    "replay.weight": "train x3",
    "replay.adaptive": "train x3",
    "optimizer": "train x3",
    "optimizer.save_steps": "nothing",
    "optimizer.keep_rounds": "nothing",
    "evaluation": "evaluate x5",
    "evaluation.stop_if_worse": "nothing",
}
"""The stages beside `plan` and `report` that a change of a parameter runs again, in the default job."""


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
            # Stages depend on single files of the directory work/prompts.
            for file in [path] if path.suffix else [path / name for name in PARTS]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(output.def_path, encoding="utf-8")
        write_students(Layout(root))
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
    with edit(file, f"{file.read_text(encoding='utf-8')}\n# edited\n"):
        return changed_stages(repo)


@contextmanager
def edit(file: Path, text: str) -> Iterator[None]:
    """Replace the content of a file for the time of the block."""
    before = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    yield
    file.write_text(before, encoding="utf-8")


def changed_stages(repo: Repo, *exempt: str) -> str:
    """Return the stages with a changed dependency."""
    stages = [stage for stage in repo.index.stages if stage_name(stage) not in exempt]
    return listed(stage for stage in stages if any(dependency.status() for dependency in stage.deps))


def listed(stages: Iterable[Any]) -> str:
    """Return stages in the words of the tables above."""
    counts = Counter(map(stage_name, stages))
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


def tracking_stages(repo: Repo, key: str) -> str:
    """Return the stages that depend on a key, on one above it, or on one below it."""
    tracked = [
        (stage, str(name))
        for stage in repo.index.stages
        for dep in stage.deps
        for name in getattr(dep, "params", None) or ()
        if stage.name not in ("plan", "report")
    ]
    overlaps = {
        stage.addressing: stage
        for stage, name in tracked
        if f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.")
    }
    return listed(overlaps.values())


def test_parameters_rerun_the_stages_whose_output_they_change(default_job: Repo) -> None:
    assert {key: tracking_stages(default_job, key) for key in PARAMETER_RERUNS} == PARAMETER_RERUNS


@pytest.mark.parametrize("key", ["rollout.prompts", "rollout.batch_size"])
def test_dvc_sees_a_changed_parameter(default_job: Repo, key: str) -> None:
    file = Path(default_job.root_dir, "params.yaml")
    params = read_yaml(file)
    section, _, name = key.partition(".")
    params[section][name] += 1
    with edit(file, file.read_text(encoding="utf-8")):
        write_yaml(file, params, comment="The parameters of a test.")
        assert changed_stages(default_job, "plan", "report") == PARAMETER_RERUNS[key]


def test_every_parameter_is_in_the_table() -> None:
    """A key of the table stands for everything below it."""

    def missing(key: str, value: Any) -> list[str]:
        if key in PARAMETER_RERUNS:
            return []
        return [name for part in value for name in missing(f"{key}.{part}", value[part])] if value else [key]

    params = read_yaml(ROOT / "params.yaml")
    assert [name for key in params for name in missing(key, params[key])] == []


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert packages | {"stages/cli"} == {edited for edited in RERUNS if edited.count("/") == 1}


def test_the_documentation_has_this_table() -> None:
    """The tables of the page have packages or parameters in each row, in backticks, and the stages that run again."""
    rows = re.findall(r"^\|(`(?:pipeline|stages)/.*`)\|([^|]+?)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {path: stages for paths, stages in rows for path in re.findall("`([^`]+)`", paths)} == RERUNS
    rows = re.findall(r"^\|(`[a-z][^/|]*`)\|([^|]+)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {key: stages for keys, stages in rows for key in re.findall("`([^`]+)`", keys)}
    assert documented == {key.replace(".small", ".NAME"): stages for key, stages in PARAMETER_RERUNS.items()}
