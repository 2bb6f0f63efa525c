"""`stillroom doctor`: is this set-up able to run the pipeline, and what mends what is not.

Guarantee: nothing is changed; every finding that is not well says what to do. A check that cannot be made is a finding,
too. Cost: some seconds, most of them for importing torch and asking dvc which links the disk can make.
Not taken: `dvc doctor`, which prints versions and judges nothing.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.checkpoints.pretrained import locate
from pipeline.runtime.config import lookup, section
from pipeline.runtime.errors import UserError
from pipeline.runtime.process import alive
from pipeline.store_admin.integrity import list_segments, segments
from pipeline.workspace.disk_usage import rest_bytes
from pipeline.workspace.schedule import ScheduleParams, check_rounds
from pipeline.workspace.validation import check_params

State: TypeAlias = Literal["well", "note", "wrong"]
_LOCKED = re.compile(r"^([\w.-]+)==(\S+?)(?: |$)")
_LITTLE_BYTES = 5 << 30  # where the job's size is unknown; the default job leaves 3 GB
_SPARE_BYTES = 1 << 30  # for the store, the report, and what is written before it takes a file's place
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check came to."""

    check: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is looked at."""

    root: Path
    store: Path


def examine(setup: Setup) -> Iterator[Finding]:
    """Every check's findings, in order."""
    for name, check in _CHECKS.items():
        try:
            yield check(setup)
        except UserError as error:
            yield Finding(check=name, state="wrong", found=str(error), remedy="as it says")


def _well(check: str, found: str) -> Finding:
    return Finding(check=check, state="well", found=found)


def _python(_: Setup) -> Finding:
    found = f"{sys.version_info.major}.{sys.version_info.minor} at {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        return Finding(check="python", state="wrong", found=found, remedy="`make setup` with Python 3.11")
    command = shutil.which("python")  # dvc.yaml's commands begin with it
    if command is None or Path(command).parent != Path(sys.executable).parent:
        got = f"{found}; `python` is {command or 'no command'}"
        return Finding(check="python", state="wrong", found=got, remedy="activate the environment, or use `make repro`")
    return _well("python", found)


def _packages(setup: Setup) -> Finding:
    path = setup.root / "requirements/lock.txt"
    if not path.is_file():
        return Finding(check="packages", state="wrong", found=f"no {path}", remedy="run in the project's root")
    lines = map(_LOCKED.match, path.read_text().splitlines())
    wanted = {line[1]: line[2] for line in lines if line}
    other = [f"{name} {_version(name)} for {one}" for name, one in wanted.items() if _version(name) != one]
    if not other:
        return _well("packages", f"{len(wanted)} as locked")
    shown = ", ".join(other[:_SHOWN]) + (", ..." if len(other) > _SHOWN else "")
    found = f"{len(other)} of {len(wanted)} are not as locked: {shown}"
    return Finding(check="packages", state="wrong", found=found, remedy="run `make setup`")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(_: Setup) -> Finding:
    import torch  # seconds; the other checks need none of it

    from pipeline.models.language_model import device, resolve_dtype

    where, dtype = device(), str(resolve_dtype("auto")).removeprefix("torch.")
    name = torch.cuda.get_device_name() if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    return _well("device", f"{where.type} ({name}); precision auto is {dtype}")


def _memory(_: Setup) -> Finding:
    free, total = (os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") / 1e9 for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return _well("memory", f"{total:.1f} GB, of which {free:.1f} are neither used nor cache")


def _disk(setup: Setup) -> Finding:
    free = {place: shutil.disk_usage(_existing(place)).free for place in (setup.root.resolve(), setup.store.resolve())}
    found = ", ".join(f"{size / 1e9:.1f} GB free at {place}" for place, size in free.items())
    here, store = free.values()
    rest = _rest_bytes(setup)
    needed = _LITTLE_BYTES if rest is None else rest + _SPARE_BYTES
    job = "unknown until its models are here" if rest is None else f"at most {rest / 1e9:.1f} GB"
    found += f"; the rounds that are left take {job}"
    if here < needed or store < _SPARE_BYTES:
        remedy = (
            f"free {max(needed - here, _SPARE_BYTES - store) / 1e9:.1f} GB: `dvc gc --workspace`, `stillroom store gc`"
        )
        return Finding(check="disk", state="wrong", found=found, remedy=remedy)
    return _well("disk", found)


def _rest_bytes(setup: Setup) -> int | None:
    try:
        return rest_bytes(setup.root)
    except (UserError, LookupError, TypeError):  # parameters that other checks judge
        return None


def _existing(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.exists())


def _git(setup: Setup) -> Finding:
    done = _run(setup, "git", "rev-parse", "--short", "HEAD")
    if done is None:
        remedy = "`git init` and commit, for `dvc exp` and `stillroom lineage`; or `dvc config core.no_scm true`"
        return Finding(check="git", state="note", found="no repository with a commit", remedy=remedy)
    return _well("git", f"at {done.strip()}")


def _dvc(setup: Setup) -> Finding:
    if not (setup.root / ".dvc").is_dir() or not (setup.root / "dvc.yaml").is_file():
        return Finding(
            check="dvc", state="wrong", found="no DVC project", remedy="run in the project's root, or `dvc init`"
        )
    lock = setup.root / "dvc.lock"
    if lock.is_file() and not lock.read_text().strip():
        remedy = "`rm dvc.lock` (`make repro` does it); the run cache has what it said"
        return Finding(check="dvc", state="wrong", found="dvc.lock is empty: dvc was killed", remedy=remedy)
    told = _run(setup, sys.executable, "-m", "dvc", "doctor")
    if told is None:
        return Finding(check="dvc", state="wrong", found="`dvc doctor` fails", remedy="see what it says")
    links = re.search(r"^Cache types: (.*)$", told, re.MULTILINE)
    if links and not {"reflink", "hardlink"} & set(links[1].split(", ")) and "<http" not in links[1]:
        remedy = "put the cache on the project's disk, or `dvc config cache.type symlink`"
        found = f"links to the cache: {links[1]}; every output is copied"
        return Finding(check="dvc", state="note", found=found, remedy=remedy)
    return _well("dvc", f"links to the cache: {links[1] if links and '<http' not in links[1] else 'no cache yet'}")


def _run(setup: Setup, *command: str) -> str | None:
    try:
        return subprocess.run(command, cwd=setup.root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _running(setup: Setup) -> Finding:
    path = setup.root / ".dvc/tmp/rwlock"
    try:
        held = _holders(json.loads(path.read_text() or "{}")) if path.is_file() else set()
    except (ValueError, TypeError, LookupError):
        return Finding(
            check="locks", state="wrong", found=f"{path} is damaged", remedy=f"`rm {path}` while no dvc runs"
        )
    if living := sorted(one for one in held if alive(one)):
        remedy = "wait for it; two `dvc repro` in one checkout fight"
        return Finding(check="locks", state="note", found=f"process {living[0]} is at work here", remedy=remedy)
    return _well("locks", f"{len(held)} left by dead processes, which dvc ignores" if held else "none")


def _holders(value: Any) -> set[int]:
    """Process ids in dvc's file of locks: {path: {"read": [...], "write": {...}}}."""
    infos = [
        one
        for entry in value.values()
        for kind in entry.values()
        for one in (kind if isinstance(kind, list) else [kind])
    ]
    return {int(one["pid"]) for one in infos if one}


def _params(setup: Setup) -> Finding:
    check_params(setup.root / "params.yaml")
    return _well("params.yaml", "sound")


def _rounds(setup: Setup) -> Finding:
    params = setup.root / "params.yaml"
    schedule = section(params, ScheduleParams, "schedule")
    check_rounds(setup.root / "rounds.yaml", schedule, lookup(params, "students"), lookup(params, "sft"))
    return _well("rounds.yaml", "in step with params.yaml")


def _teacher(setup: Setup) -> Finding:
    name = lookup(setup.root / "params.yaml", "teacher", "model")
    place, options = locate(name, "teacher.model")
    if options or (setup.root / place).is_dir():
        return _well("teacher", f"{name} is here")
    where = (
        "HF_HUB_OFFLINE is set: only the hub's cache is asked"
        if os.environ.get("HF_HUB_OFFLINE")
        else "the hub is asked"
    )
    return _well("teacher", f"{name}: no directory; {where}")


def _store(setup: Setup) -> Finding:
    parent = _existing(setup.store.resolve())
    if not os.access(parent, os.W_OK):
        return Finding(
            check="store", state="wrong", found=f"{parent} cannot be written", remedy="chmod it, or set STILLROOM_STORE"
        )
    whole, damaged = list_segments(segments(setup.store))
    if damaged:
        found = f"{len(damaged)} of {len(whole) + len(damaged)} segments are damaged: {damaged[0]}"
        return Finding(check="store", state="wrong", found=found, remedy="run `stillroom store repair`")
    left = len(list(setup.store.glob("*/.tmp-*")))
    unfinished = f", {left} unfinished writes, which the next score stage sweeps" if left else ""
    return _well("store", f"{len(whole)} segments, manifests whole{unfinished} at {setup.store}")


_CHECKS: dict[str, Callable[[Setup], Finding]] = {
    "python": _python,
    "packages": _packages,
    "device": _device,
    "memory": _memory,
    "disk": _disk,
    "git": _git,
    "dvc": _dvc,
    "locks": _running,
    "params.yaml": _params,
    "rounds.yaml": _rounds,
    "teacher": _teacher,
    "store": _store,
}
