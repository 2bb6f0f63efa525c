"""Stages and commands where the environment, or the clone, is missing: one line says so."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.core.files import read_prompts
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from tests.dvc_projects import ROOT
from tests.project import PARAMS


def run(*command: str | Path, env: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and what the command prints on stderr."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, encoding="utf-8")
    return done.returncode, done.stderr


def test_a_stage_without_the_packages_ends_with_one_line() -> None:
    """With -S, Python does not see the packages of its environment."""
    code, message = run(sys.executable, "-S", "-m", "stages.plan", env={"PATH": os.environ["PATH"]})
    assert code == 1
    assert message.startswith("error: python: expected the packages of requirements/lock.txt, got ")
    assert "activate .venv" in message
    assert message.count("\n") == 1


def test_the_first_stage_without_python_ends_with_one_line(tmp_path: Path) -> None:
    """As on a machine that has a `dvc` and a `python3`, but no command `python`."""
    shell = shutil.which("sh")
    assert shell is not None
    (tmp_path / "sh").symlink_to(shell)
    command = read_yaml(ROOT / "dvc.yaml")["stages"]["plan"]["cmd"]
    code, message = run(shell, "-c", command, env={"PATH": str(tmp_path)})
    assert (code, message.count("\n")) == (1, 1)
    assert message.startswith("error: python: expected that of .venv")


def test_the_package_works_in_a_clone_only(tmp_path: Path) -> None:
    """A wheel has the packages, and neither dvc.yaml nor the presets."""
    for name in ("pipeline", "stages", "schemas"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    code, message = run(sys.executable, "-m", "stages.cli", "status", env=env)
    assert code == 1
    assert message == (
        f"error: stillroom: expected a clone, which is the workspace, got a package installed in {tmp_path}; "
        "clone the repository, run `make setup` there, and use its .venv\n"
    )


def test_a_stage_runs_in_any_locale_and_under_any_name(tmp_path: Path, make_model_dir: Callable[..., Path]) -> None:
    """With a home that cannot be written, from data in Chinese, whose directory has another alphabet."""
    place = tmp_path / "Größe [1] *" / "lr=0.1::b 'q'"
    data, model = place / "Данные", make_model_dir(place / "mödel [x]")
    data.mkdir()
    rows = [f"{number} 加一？,{number + 1}\n" for number in range(20)]
    (data / "train.csv").write_text("问,答\n" + "".join(rows), encoding="utf-8")
    settings = PARAMS["task"]["settings"] | {"data": data.name, "question_column": "问", "answer_column": "答"}
    task = PARAMS["task"] | {"settings": settings | {"train_split": "train[:80%]", "heldout_split": "train[80%:]"}}
    write_yaml(place / "params.yaml", PARAMS | {"task": task}, comment="名")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/proc/none", "HF_HUB_OFFLINE": "1"}
    env |= {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "stages.prepare", "--teacher", model.name]
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    prompts = read_prompts(place / "work/prompts", "train")
    assert all("加一？" in prompt.prompt_text for prompt in prompts)
