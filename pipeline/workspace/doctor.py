"""Check that this set-up can run the pipeline, and name the fix for what is wrong (`stillroom doctor`).

* Nothing is changed.
* Every finding that is not `well` has a remedy; a check that cannot be made is a finding, too.
* Cost: some seconds, most of them for importing torch and for `dvc doctor`, which tries out links on the disk.
"""

import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.checkpoints.pretrained import locate
from pipeline.runtime.config import lookup
from pipeline.runtime.errors import UserError
from pipeline.runtime.layout import Layout, store_root
from pipeline.runtime.process import alive, command_output
from pipeline.runtime.text import size_text
from pipeline.runtime.yaml_files import read_yaml
from pipeline.store.access import check_writable
from pipeline.store_admin.integrity import list_segments, segments
from pipeline.workspace.disk_usage import cache_types, rest_bytes
from pipeline.workspace.schedule import check_rounds, read_schedule
from pipeline.workspace.validation import check_params

State: TypeAlias = Literal["well", "note", "wrong"]
_LOCKED = re.compile(r"^([\w.-]+)==(\S+?)(?: |$)", re.MULTILINE)
_DEFAULT_BYTES = 5 << 30  # free space where the size of the job is unknown; the default job leaves 3 GB
_SPARE_BYTES = 1 << 30  # free space for the store and the report


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    message: str
    remedy: str


# The message of a check that finds nothing wrong, or else state, message and remedy.
Result: TypeAlias = str | tuple[State, str, str]


def examine(layout: Layout) -> Iterator[Finding]:
    """Yield the finding of every check of a project and of the store at STILLROOM_STORE, in order."""
    for name, check in _CHECKS.items():
        try:
            result = check(layout)
        except UserError as error:
            result = "wrong", str(error), "see the message"
        if isinstance(result, str):
            yield Finding(check=name, state="well", message=result, remedy="")
        else:
            state, message, remedy = result
            yield Finding(check=name, state=state, message=message, remedy=remedy)


def _python(_: Layout) -> Result:
    message = f"{sys.version_info.major}.{sys.version_info.minor} at {sys.prefix}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return "wrong", message, "`make setup` with Python 3.11, 3.12 or 3.13"
    # The commands in dvc.yaml begin with `python`.
    command = shutil.which("python")
    if command is None or Path(command).parent != Path(sys.executable).parent:
        message += f"; `python` is {command or 'no command'}"
        return "wrong", message, "activate the environment, or use `make repro`"
    return message


def _packages(layout: Layout) -> Result:
    path = layout.root / "requirements/lock.txt"
    if not path.is_file():
        return "wrong", f"no {path}", "run in the project's root"
    locked = dict(_LOCKED.findall(path.read_text(encoding="utf-8")))
    other = [
        f"{name} {installed} for {version}"
        for name, version in locked.items()
        if (installed := _version(name)) != version
    ]
    if not other:
        return f"{len(locked)} as locked"
    listed = ", ".join([*other[:4], *(["..."] if len(other) > 4 else [])])
    return "wrong", f"{len(other)} of {len(locked)} are not as locked: {listed}", "run `make setup`"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(_: Layout) -> Result:
    import torch  # takes seconds, and the other checks do not need it

    from pipeline.models.language_model import device, resolve_dtype

    where, dtype = device(), str(resolve_dtype("auto")).removeprefix("torch.")
    name = torch.cuda.get_device_name() if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{where.type} ({name}); precision auto is {dtype}"


def _memory(_: Layout) -> Result:
    free, total = (os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
    return f"{size_text(total)}, of which {size_text(free)} are neither used nor cache"


def _disk(layout: Layout) -> Result:
    free = {path: shutil.disk_usage(_existing(path)).free for path in (layout.root.resolve(), store_root().resolve())}
    project, store = free.values()
    try:
        needs = rest_bytes(layout.root)
        rest = None if needs is None else needs.total
    except (UserError, LookupError, TypeError):  # other checks report wrong parameters
        rest = None
    needed = _DEFAULT_BYTES if rest is None else rest + _SPARE_BYTES
    job = "unknown until its models are here" if rest is None else f"at most {size_text(rest)}"
    places = ", ".join(f"{size_text(size)} free at {path}" for path, size in free.items())
    message, missing = f"{places}; the rounds that are left take {job}", max(needed - project, _SPARE_BYTES - store)
    if missing > 0:
        fewer = "`optimizer.keep_rounds: 1`, which holds for the rounds that are left"
        return "wrong", message, f"free {size_text(missing)}: `dvc gc --workspace`, `stillroom store gc`, {fewer}"
    return message


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _git(layout: Layout) -> Result:
    commit = command_output("git", "rev-parse", "--short", "HEAD", cwd=layout.root)
    if commit is None:
        remedy = "`git init` and commit, for `dvc exp` and `stillroom lineage`; or `dvc config core.no_scm true`"
        return "note", "no repository with a commit", remedy
    return f"at {commit}"


def _dvc(layout: Layout) -> Result:
    if not (layout.root / ".dvc").is_dir() or not (layout.root / "dvc.yaml").is_file():
        return "wrong", "no DVC project", "run in the project's root, or `dvc init`"
    lock = layout.root / "dvc.lock"
    if lock.is_file() and not lock.read_text(encoding="utf-8").strip():
        remedy = "`rm dvc.lock` (`make repro` does it); the run cache has its content"
        return "wrong", "dvc.lock is empty: dvc was killed", remedy
    report = command_output(sys.executable, "-m", "dvc", "doctor", cwd=layout.root)
    if report is None:
        return "wrong", "`dvc doctor` fails", "run it and see its message"
    line = re.search(r"^Cache types: (.*)$", report, re.MULTILINE)
    if line is None or "<http" in line[1]:
        return "links to the cache: no cache yet"
    possible, first = line[1].split(", "), cache_types(layout.root)[0]
    message = f"links to the cache: {line[1]}; cache.type begins with {first}"
    if first in possible:
        return message
    if {"reflink", "hardlink"} & {*possible}:
        return "note", f"{message}, so directories are copied", "`dvc config cache.type hardlink,copy`"
    remedy = "put the cache on the project's disk, or `dvc config cache.type symlink`"
    return "note", f"{message}, so every output is copied", remedy


def _locks(layout: Layout) -> Result:
    path = layout.root / ".dvc/tmp/rwlock"
    try:
        holders = _holders(json.loads(path.read_text(encoding="utf-8") or "{}")) if path.is_file() else set()
    except (ValueError, TypeError, LookupError):
        return "wrong", f"{path} is damaged", f"`rm {path}` while no dvc runs"
    if living := sorted(pid for pid in holders if alive(pid)):
        remedy = "wait for it; two `dvc repro` in one checkout disturb each other"
        return "note", f"process {living[0]} is at work here", remedy
    return f"{len(holders)} left by dead processes, which dvc ignores" if holders else "none"


def _holders(locks: Any) -> set[int]:
    """Return the process ids in dvc's file of locks: {path: {"read": [...], "write": {...}}}."""
    kinds = [kind for entry in locks.values() for kind in entry.values()]
    return {int(info["pid"]) for kind in kinds for info in (kind if isinstance(kind, list) else [kind]) if info}


def _params(layout: Layout) -> Result:
    check_params(layout.params)
    return "sound"


def _inputs(layout: Layout) -> Result:
    from pipeline.workspace.input_check import check_inputs  # imports transformers, as the models do

    check_inputs(read_yaml(layout.params))
    return "the data and the models that are here fit params.yaml"


def _rounds(layout: Layout) -> Result:
    check_rounds(layout.rounds, *read_schedule(layout.params))
    return "matches params.yaml"


def _teacher(layout: Layout) -> Result:
    name = lookup(layout.params, "teacher", "model")
    path, options = locate(name, "teacher.model")
    if options or (layout.root / path).is_dir():
        return f"{name} is here"
    offline = os.environ.get("HF_HUB_OFFLINE")
    source = "HF_HUB_OFFLINE is set: it must be in the hub's cache" if offline else "it is loaded from the hub"
    return f"{name}: no directory; {source}"


def _store(_: Layout) -> Result:
    store = store_root()
    check_writable(store)
    whole, damaged = list_segments(segments(store))
    if damaged:
        message = f"{len(damaged)} of {len(whole) + len(damaged)} segments are damaged: {damaged[0]}"
        return "wrong", message, "run `stillroom store repair`"
    unfinished = len(list(store.glob("*/.tmp-*")))
    note = f", {unfinished} unfinished writes, which the next score stage removes" if unfinished else ""
    return f"{len(whole)} segments, manifests whole{note} at {store}"


_CHECKS: dict[str, Callable[[Layout], Result]] = {
    "python": _python,
    "packages": _packages,
    "device": _device,
    "memory": _memory,
    "disk": _disk,
    "git": _git,
    "dvc": _dvc,
    "locks": _locks,
    "params.yaml": _params,
    "rounds.yaml": _rounds,
    "inputs": _inputs,
    "teacher": _teacher,
    "store": _store,
}
