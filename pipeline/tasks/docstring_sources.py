"""Read the docstrings of installed packages' public functions from their source files, without importing them.

* Guarantee: the order follows the file names and then the lines, so it is the same on every machine. Test code, names
  with a leading underscore and functions within functions are skipped.
* Cost: about 7 s for 2,600 files, most of it in `ast.parse`.
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
# Distributions ship these modules as separate packages, so they are missing on some machines with the same Python.
_SPLIT_OFF = {"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv"}
_TEST = re.compile(r"tests?|test_.*|.*_tests?|conftest")


def docstrings(module: str, path: Path) -> Iterator[tuple[str, str]]:
    """Return the dotted name and the docstring of each public function in a module's file."""
    return _functions(_parse(path.read_bytes()), f"{module}.")


def modules(package: str) -> list[tuple[str, Path]]:
    """Return the dotted names and files of the public modules of a package, or of all packages of "stdlib".

    The list is empty when the package is not installed, or has no Python source.
    """
    return [module for name, root in _roots(package) for module in _below(name, root)]


def _below(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield name, root
        return
    for path in sorted(root.rglob("*.py"), key=Path.as_posix):
        parts = [part for part in path.relative_to(root).with_suffix("").parts if part != "__init__"]
        if all(map(_public, parts)):
            yield ".".join([name, *parts]), path


def _roots(package: str) -> list[tuple[str, Path]]:
    """Return the module name and the file or directory of a package, or of each module of "stdlib"."""
    if package == STDLIB:
        library = Path(sysconfig.get_path("stdlib"))
        names = sorted(name for name in sys.stdlib_module_names if _public(name) and name not in _SPLIT_OFF)
        return [(name, path) for name in names for path in (library / name, library / f"{name}.py") if path.exists()]
    # find_spec imports the parents of a dotted name, and nothing for a plain name.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
    roots = [Path(place) for place in places if place is not None][:1]
    return [(package, root) for root in roots if root.is_dir() or root.suffix == ".py"]


def _public(name: str) -> bool:
    return not name.startswith("_") and not _TEST.fullmatch(name)


def _parse(source: bytes) -> list[ast.stmt]:
    with warnings.catch_warnings(action="ignore"):  # invalid escapes and similar faults belong to the package
        try:
            return ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError):  # a template, or source for another version of Python
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
