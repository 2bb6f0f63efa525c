"""Where the evidence keeps its files, relative to bench/evidence."""

import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.runtime.layout import Layout, round_list
from pipeline.runtime.yaml_files import read_yaml

WORK = Path("work")
STORIES, JUDGE, TEACHER = WORK / "stories", WORK / "judge", WORK / "teacher"
STUDENT = "small"

Changes = dict[tuple[str, ...], Any]  # new values of parameters by their paths of keys


def project(name: str) -> Path:
    """Return the directory of a project."""
    return WORK / "projects" / name


def validation(name: str) -> str:
    """Return the name of the project on which the learning rates of another one are chosen."""
    return f"{name}-validation"


def last_round(home: Path) -> str:
    """Return the id of the last round of a run or a start."""
    return str(round_list(read_yaml(Layout(home).rounds))[-1]["id"])


@contextmanager
def inside(home: Path) -> Iterator[None]:
    """Change into a project or a run, whose store is there too, and send what the stages print to stderr."""
    with chdir(home), redirect_stdout(sys.stderr):
        yield
