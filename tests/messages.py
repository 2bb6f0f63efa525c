"""Find every message that the code can raise as a UserError, as text with `...` for what is known only at run time."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ("expected", "got", "remedy")
DEFAULT_REMEDY = ast.Constant("fix params.yaml")  # of a ParameterError
CONSTRUCTORS = ROOT / "pipeline" / "runtime" / "errors.py"


@functools.cache
def messages() -> dict[str, str]:
    """Return each message with the place that raises it."""
    paths = sorted(path for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py"))
    functions_of = {
        path: [
            node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
        ]
        for path in paths
        if path != CONSTRUCTORS
    }
    everywhere = [function for functions in functions_of.values() for function in functions]
    places: dict[str, str] = {}
    for path, functions in functions_of.items():
        for function in functions:
            for call in _calls(function):
                parts = _parts(call)
                if set(WORDS) <= parts.keys():
                    callers = functions if function.name.startswith("_") else everywhere
                    place = f"{path.relative_to(ROOT)}:{call.lineno}"
                    places |= dict.fromkeys(_messages_of(parts, call, function, callers), place)
    return places


def _parts(call: ast.Call) -> dict[str, ast.expr]:
    parts = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    return {"remedy": DEFAULT_REMEDY, **parts} if _name_of(call) == "ParameterError" else parts


def _messages_of(
    parts: dict[str, ast.expr], call: ast.Call, function: ast.FunctionDef, callers: list[ast.FunctionDef]
) -> Iterator[str]:
    """Yield one message for every wording of what was expected."""
    texts = [_wordings(parts[word], call, function, callers) for word in WORDS]
    got, remedy = (wordings[0] if len(wordings) == 1 else "..." for wordings in texts[1:])
    for expected in texts[0]:
        yield f"expected {expected}, got {got}; {remedy}"


def _wordings(node: ast.expr, call: ast.Call, function: ast.FunctionDef, callers: list[ast.FunctionDef]) -> list[str]:
    """Return the texts that an expression stands for: a local variable's values, or the arguments of the callers."""
    if isinstance(node, ast.IfExp):
        return [*_wordings(node.body, call, function, callers), *_wordings(node.orelse, call, function, callers)]
    if not isinstance(node, ast.Name):
        return [_text(node)]
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs) if argument.arg != "self"]
    if node.id not in names:
        assignments = _assignments_before(call, function.body, node.id)
        return [text for assignment in assignments for text in _values(assignment, node.id)] or ["..."]
    position = names.index(node.id)
    texts: list[str] = []
    for caller in callers:
        for other in _calls(caller):
            if _name_of(other) == function.name and caller is not function:
                arguments = [*other.args[position : position + 1]]
                arguments += [keyword.value for keyword in other.keywords if keyword.arg == node.id]
                texts += [text for argument in arguments for text in _wordings(argument, other, caller, callers)]
    return list(dict.fromkeys(texts)) or ["..."]


def _assignments_before(call: ast.Call, body: list[ast.stmt], name: str) -> list[ast.Assign]:
    """Return the assignments to a name that the call can see: those of the nearest statement before it."""
    for index, statement in enumerate(body):
        if call not in ast.walk(statement):
            continue
        blocks = [getattr(statement, block, []) for block in ("body", "orelse", "finalbody")]
        blocks += [handler.body for handler in getattr(statement, "handlers", [])]
        for block in blocks:
            if assignments := _assignments_before(call, block, name):
                return assignments
        for before in reversed(body[:index]):
            nodes = [node for node in ast.walk(before) if isinstance(node, ast.Assign) and _binds(node, name)]
            if nodes:
                return nodes
    return []


def _binds(assignment: ast.Assign, name: str) -> bool:
    nodes = (node for target in assignment.targets for node in ast.walk(target))
    return any(isinstance(node, ast.Name) and node.id == name for node in nodes)


def _values(assignment: ast.Assign, name: str) -> list[str]:
    target, value = assignment.targets[0], assignment.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return [_text(element) for bound, element in pairs if getattr(bound, "id", "") == name]
    if isinstance(value, ast.IfExp):
        return [_text(value.body), _text(value.orelse)]
    return [_text(value)]


def _calls(function: ast.FunctionDef) -> list[ast.Call]:
    return [node for node in ast.walk(function) if isinstance(node, ast.Call)]


def _name_of(call: ast.Call) -> str:
    """Return the name of the function or method that is called."""
    return str(getattr(call.func, "id", getattr(call.func, "attr", "")))


def _text(node: ast.expr) -> str:
    """Return the words of a string, with dots for its variables."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    return "..."
