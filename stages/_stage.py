"""What every stage has in common: its parameters, its command line, its cost, and how it ends.

A stage is a function below `@stage(...)`. The keywords of the decorator are the sections of params.yaml that it reads;
tests/test_architecture.py compares the keys that change what it writes with `params` in dvc.yaml. The parameters of the
function are the options of the command line.
"""

import errno
import functools
import inspect
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, get_type_hints

import click

from pipeline.runtime.config import section
from pipeline.runtime.errors import UserError
from pipeline.runtime.files import read_json, write_json
from pipeline.runtime.layout import LAYOUT, Layout
from pipeline.runtime.process import command_output, die_with_parent, use_utf_8
from pipeline.runtime.progress import summary

NEARLY_NONE_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a stage gets beside its parameters and options."""

    layout: Layout
    cost: dict[str, Any]  # The entry in work/costs, to which the stage adds what it spent

    def warn(self, message: str) -> None:
        """Print a warning, and leave it in the entry in work/costs, from which the report shows it again."""
        self.cost.setdefault("warnings", []).append(message)
        click.echo(f"warning: {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """A section of params.yaml that a stage reads, with the keys in it that cannot change what the stage writes.

    DVC tracks every key of the section but these, so that a change of theirs does not run the stage again.
    """

    key: str  # The dotted key of the section
    kind: type
    untracked: tuple[str, ...] = ()  # Dotted keys below the section
    file: Callable[[str], Path] | None = None  # Returns the file of a student that the section is in, not params.yaml

    def tracked_keys(self) -> list[str]:
        """Return the dotted keys that DVC tracks: a mapping without untracked keys is one of them."""
        return _tracked_keys(self.key, self.kind, {f"{self.key}.{name}" for name in self.untracked})


def _tracked_keys(key: str, kind: Any, untracked: set[str]) -> list[str]:
    if key in untracked:
        return []
    if not any(name.startswith(f"{key}.") for name in untracked):
        return [key]
    assert is_dataclass(kind), f"{key} has no keys of its own"
    kinds = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return [tracked for name in names for tracked in _tracked_keys(f"{key}.{name}", kinds[name], untracked)]


class StageCommand(click.Command):
    """The command line of a stage."""

    # The dotted keys in params.yaml that DVC tracks for the stage; an option in braces stands for its value.
    tracked: frozenset[str]

    def run(self, **options: Any) -> None:
        """Run the stage in this process, with the values of its options."""
        assert self.callback is not None
        self.callback(**options)


def stage(cost_name: str | None, /, **sections: Any) -> Callable[[Callable[..., None]], StageCommand]:
    """Return the decorator that makes the command of a stage from its function.

    The function is called with a StageContext, a namespace of its sections, and its options as keywords. Each parameter
    after the first two is a required option: `first_step: int` is `--first-step`, and `round_id: str` is `--round`. The
    docstring of its module is the help of the command.

    Args:
        cost_name: The name of the stage's entry in work/costs, with options in braces, such as `{student}-init`; None
            where the stage has no entry.
        sections: The type of each section. The keyword is the key in params.yaml, unless the value is a pair of
            another dotted key and the type, or a `Tracked` section.
    """
    read = {name: _tracked(name, value) for name, value in sections.items()}

    def decorate(function: Callable[..., None]) -> StageCommand:
        @functools.wraps(function)
        def callback(**options: Any) -> None:
            params = SimpleNamespace()
            for name, tracked in read.items():
                keys = [part.format(**options) for part in tracked.key.split(".")]
                path = tracked.file(options["student"]) if tracked.file else LAYOUT.params
                setattr(params, name, section(path, tracked.kind, *keys))
            with ExitStack() as stack:
                entry = stack.enter_context(cost(cost_name.format(**options))) if cost_name else {}
                function(StageContext(layout=LAYOUT, cost=entry), params, **options)

        module_docstring = sys.modules[function.__module__].__doc__
        params = list(inspect.signature(function).parameters.values())[2:]
        options = [click.Option(_option_names(param.name), type=param.annotation, required=True) for param in params]
        command = click.command(cls=StageCommand, help=module_docstring, params=options)(callback)
        command.tracked = frozenset(key for tracked in read.values() for key in tracked.tracked_keys())
        return command

    return decorate


def _tracked(name: str, value: Any) -> Tracked:
    if isinstance(value, Tracked):
        return value
    key, kind = value if isinstance(value, tuple) else (name, value)
    return Tracked(key=key, kind=kind)


def _option_names(name: str) -> list[str]:
    return [name, "--" + name.removesuffix("_id").replace("_", "-")]


def ended(gate: Path) -> bool:
    """Return whether the verdict in a file ended the schedule; plan.json, for which every round waits, has none."""
    return gate.is_file() and bool(read_json(gate).get("worse"))


def run(command: click.Command) -> None:
    """Run a command as a process of its own, which ends with its parent.

    A mistake of the user, and a full disk, end the process with one line on stderr and exit code 1.
    """
    use_utf_8()
    die_with_parent()
    try:
        command(standalone_mode=True)
    except UserError as error:
        fail(error)
    except Exception as error:
        if not disk_is_full(error):
            raise
        fail(full_disk(error))


def disk_is_full(error: Exception) -> bool:
    """Recognise a full disk, also where a library hides the error number (safetensors) or all of the cause (torch)."""
    reported = getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or "No space left" in str(error)
    writes = isinstance(error, RuntimeError) and "write" in str(error)
    return reported or (writes and shutil.disk_usage(Path.cwd()).free < NEARLY_NONE_BYTES)


def full_disk(error: Exception) -> UserError:
    """Return the message about a full disk."""
    got, remedy = f"a full disk ({error})", "free some and run `make repro` again"
    return UserError(Path.cwd(), expected="free space", got=got, remedy=remedy)


def fail(error: UserError) -> NoReturn:
    """Print a mistake in one line, and end this process."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    sys.exit(1)


@contextmanager
def cost(name: str) -> Iterator[dict[str, Any]]:
    """Yield the cost of a stage, and write it to work/costs/<name>.json and print it when the block ends well.

    The cost is no part of the stage's results, which must not differ between two runs of the same work. The version of
    the code, which `stillroom lineage` prints, is stored with the cost for the same reason.
    """
    started, processor_s = time.monotonic(), time.process_time()
    entry: dict[str, Any] = {"tokens": 0} | _code_version()
    yield entry
    entry["seconds"] = round(time.monotonic() - started, 3)
    entry["processor_seconds"] = round(time.process_time() - processor_s, 3)
    write_json(LAYOUT.cost(name), entry)
    print(summary(name, entry), flush=True)


def _code_version() -> dict[str, Any]:
    """Return the commit, and whether tracked files other than dvc.lock, which the run writes, differ from it."""
    commit = command_output("git", "rev-parse", "HEAD")
    changed = command_output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    return {"commit": commit, "dirty": None if commit is None else bool(changed)}
