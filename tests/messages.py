"""Every message that the code can raise as a UserError, as text with `...` for what is only known then."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ("expected", "got", "remedy")


@functools.cache
def messages() -> dict[str, str]:
    """Message to the place that raises it."""
    found: dict[str, str] = {}
    paths = sorted(one for folder in ("pipeline", "stages") for one in (ROOT / folder).rglob("*.py"))
    inside = {
        path: [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)]
        for path in paths
    }
    everywhere = [one for some in inside.values() for one in some]
    for path, functions in inside.items():
        for function in functions:
            for call in _calls(function):
                if set(WORDS) <= {one.arg for one in call.keywords}:
                    callers = functions if function.name.startswith("_") else everywhere
                    place = f"{path.relative_to(ROOT)}:{call.lineno}"
                    found |= dict.fromkeys(_written(call, function, callers), place)
    return found


def _written(call: ast.Call, function: ast.FunctionDef, functions: list[ast.FunctionDef]) -> Iterator[str]:
    """One message for every wording of what was expected."""
    parts = {one.arg: one.value for one in call.keywords}
    texts = [_wordings(parts[word], function, functions) for word in WORDS]
    got, remedy = (one[0] if len(one) == 1 else "..." for one in texts[1:])
    for expected in texts[0]:
        yield f"expected {expected}, got {got}; {remedy}"


def _wordings(node: ast.expr, function: ast.FunctionDef, functions: list[ast.FunctionDef]) -> list[str]:
    """What a name may stand for: what the function gives it, or what the module's callers hand over."""
    if not isinstance(node, ast.Name):
        return [_text(node)]
    names = [one.arg for one in (*function.args.args, *function.args.kwonlyargs)]
    if node.id not in names:
        made = [one for one in ast.walk(function) if isinstance(one, ast.Assign) and _binds(one.targets, node.id)]
        return [text for one in made for text in _values(one, node.id)] or ["..."]
    at = names.index(node.id)
    found: list[str] = []
    for other in functions:
        for call in _calls(other):
            if getattr(call.func, "id", "") == function.name:
                given = [*call.args[at : at + 1], *(one.value for one in call.keywords if one.arg == node.id)]
                inner = (
                    [] if other is function else [text for one in given for text in _wordings(one, other, functions)]
                )
                found += inner
    return list(dict.fromkeys(found)) or ["..."]


def _binds(targets: list[ast.expr], name: str) -> bool:
    return any(getattr(one, "id", "") == name for target in targets for one in ast.walk(target))


def _values(made: ast.Assign, name: str) -> list[str]:
    target, value = made.targets[0], made.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return [_text(one) for bound, one in pairs if getattr(bound, "id", "") == name]
    if isinstance(value, ast.IfExp):
        return [_text(value.body), _text(value.orelse)]
    return [_text(value)]


def _calls(function: ast.FunctionDef) -> list[ast.Call]:
    return [one for one in ast.walk(function) if isinstance(one, ast.Call)]


def _text(node: ast.expr) -> str:
    """The words of a string, with dots for its variables."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(one) for one in node.values)
    return "..."
