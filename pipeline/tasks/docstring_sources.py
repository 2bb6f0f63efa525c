"""The docstrings of installed packages' public functions, read from their source files: nothing is imported.

Guarantee: the order follows the files' names and then the lines, so it is the same on every machine. Test code,
names with a leading underscore and functions within functions are left out. Cost: about 6 s for 2,600 files (10 s on
a busy machine), most of it in `ast.parse`; not parsing files without a long enough docstring saves a seventh of that.
Not taken: `inspect` over imported modules, which runs their code and shows what this machine happens to support.
"""

import ast
import importlib.util
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

STDLIB = "stdlib"
# What distributions ship as packages of their own, so that machines with the same Python differ in it.
_SPLIT_OFF = {"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"}
_OPENING = re.compile(rb":[^\n]*\n\s*[rRuU]?(\"\"\"|''')")
_TEST = re.compile(r"tests?|test_.*|.*_tests?|conftest")


def docstrings(module: str, path: Path, *, min_chars: int) -> Iterator[tuple[str, str]]:
    """Pairs (dotted name, docstring) of a module's file; at least all docstrings of `min_chars` characters."""
    source = path.read_bytes()
    if _may_have(source, min_chars):
        for name, text in _functions(_parse(source), ""):
            yield f"{module}.{name}", text


def modules(package: str) -> list[tuple[str, Path]]:
    """Dotted names and files of a package's public modules, or of those of "stdlib".

    A LookupError when the package is not installed, or has no Python source.
    """
    return [one for name, root in _roots(package) for one in _below(name, root)]


def _below(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield name, root
        return
    files = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    for relative, path in sorted(files, key=lambda pair: pair[0].as_posix()):
        parts = [*relative.parts[:-1], relative.stem]
        if parts[-1] == "__init__":
            parts.pop()
        if all(map(_public, parts)):
            yield ".".join([name, *parts]), path


def _roots(package: str) -> list[tuple[str, Path]]:
    """(module name, file or directory) of a package's top."""
    if package == STDLIB:
        library = Path(sysconfig.get_path("stdlib"))
        names = sorted(name for name in sys.stdlib_module_names if _public(name) and name not in _SPLIT_OFF)
        found = [(name, path) for name in names for path in (library / name, library / f"{name}.py") if path.exists()]
    else:
        # find_spec imports the parents of a dotted name, and nothing for a plain one.
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
        found = [(package, Path(place)) for place in places if place is not None][:1]
    found = [(name, path) for name, path in found if path.is_dir() or path.suffix == ".py"]
    if not found:
        raise LookupError(package)
    return found


def _public(name: str) -> bool:
    return not name.startswith("_") and not _TEST.fullmatch(name)


def _may_have(source: bytes, min_chars: int) -> bool:
    """False only when no triple-quoted string that follows a colon has `min_chars` bytes."""
    closings = ((found.end(), source.find(found[1], found.end())) for found in _OPENING.finditer(source))
    return any(end - start >= min_chars for start, end in closings)


def _parse(source: bytes) -> list[ast.stmt]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the package's own
        try:
            return ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError):  # a template, or source for another version
            return []


def _functions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and _public(node.name):
            yield from _functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _public(node.name):
            if text := ast.get_docstring(node):
                yield prefix + node.name, text
        elif isinstance(node, ast.If | ast.Try):  # definitions that depend on the platform
            yield from _functions([*node.body, *node.orelse], prefix)
