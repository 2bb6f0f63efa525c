"""The shape of the project: which package may import which, and what dvc.yaml lists as code dependencies."""

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.core.files import prompts_file
from pipeline.runtime.layout import LAYOUT
from pipeline.workspace.schedule import ScheduleParams, rounds_document

ROOT = Path(__file__).parents[1]
FIRST_PARTY = ("pipeline", "stages", "schemas")
LEVELS = [
    {"runtime"},
    {"core"},
    {"models", "metrics", "store"},
    {"losses", "tasks", "rollout", "scoring", "lineage"},
    {"training", "evaluation", "checkpoints", "report", "store_admin"},
    {"workspace"},
]
# These cannot change a number, so no stage lists them; the report alone lists lineage, which it shows.
EXEMPT = ("pipeline/runtime", "pipeline/lineage", "stages/_stage.py", "stages/_forks.py", "stages/__init__.py")
PLACEHOLDERS = {"one", "found", "told", "some", "given", "alike"}


def modules() -> dict[str, Path]:
    """Every first-party module by name, with its file relative to the root; packages under their own name."""
    files = {}
    for top in FIRST_PARTY:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.relative_to(ROOT)
    return files


MODULES = modules()


@functools.cache
def named(name: str) -> frozenset[str]:
    """First-party modules that the import statements of `name` name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / MODULES[name]).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from package import module` names the module, and no definition of the package's own file.
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= submodules if len(submodules) == len(node.names) else {node.module, *submodules}
    return frozenset(names & MODULES.keys()) - {name}


@functools.cache
def imports(name: str) -> frozenset[str]:
    """First-party modules that importing `name` runs: those it names, and every parent package of each of them."""
    names = named(name) | {name}
    parents = {".".join(parts[:n]) for parts in (other.split(".") for other in names) for n in range(1, len(parts))}
    return frozenset((names | parents) & MODULES.keys()) - {name}


@functools.cache
def closure(name: str) -> frozenset[str]:
    """Every module that runs when `name` is imported, itself included."""
    seen: set[str] = set()
    waiting = {name}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= imports(module) - seen
    return frozenset(seen)


def stages() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml; of a loop what it repeats."""
    document = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    return {name: stage.get("do", stage) for name, stage in document["stages"].items()}


STAGES = stages()
CHECKED = [name for name in STAGES if name != "plan"]


def module_of(stage: dict[str, Any]) -> str:
    words = stage["cmd"].split()
    return str(words[words.index("-m") + 1])


def is_code(dependency: str) -> bool:
    return dependency.split("/")[0] in FIRST_PARTY


def covers(listed: str, file: str) -> bool:
    """True where `listed` is the file or a directory above it."""
    return file == listed or file.startswith(f"{listed}/")


def has_code(file: str) -> bool:
    """False for an `__init__.py` that holds nothing but its docstring."""
    return any(not isinstance(node, ast.Expr) for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("name", CHECKED)
def test_code_dependencies_cover_the_imports(name: str) -> None:
    files = {MODULES[module].as_posix() for module in closure(module_of(STAGES[name]))}
    listed = [dependency for dependency in STAGES[name]["deps"] if is_code(dependency)]
    needed = {file for file in files if not any(covers(exempt, file) for exempt in EXEMPT) and has_code(file)}
    assert {file for file in needed if not any(covers(path, file) for path in listed)} == set(), "not listed"
    assert {path for path in listed if not any(covers(path, file) for file in files)} == set(), "listed in vain"


def test_dvc_yaml_is_short() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 300
    assert sum(is_code(dependency) for stage in STAGES.values() for dependency in stage["deps"]) <= 70


def test_the_library_is_packages_only() -> None:
    assert [path.name for path in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]
    packages = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert packages == set().union(*LEVELS)


def test_packages_import_only_lower_levels() -> None:
    level = {package: index for index, packages in enumerate(LEVELS) for package in packages}
    for name in MODULES:
        top, _, package = name.partition(".")
        package = package.split(".")[0]
        for other in imports(name):
            other_top, _, other_package = other.partition(".")
            other_package = other_package.split(".")[0]
            if top == "pipeline":
                assert other_top != "stages", f"{name} imports {other}"
                if other_top == "pipeline" and package and other_package and package != other_package:
                    assert level[other_package] < level[package], f"{name} imports {other}"
            elif top == "schemas":
                assert other_top == "schemas", f"{name} imports {other}"
            elif not name.startswith("stages.cli"):
                assert not other.startswith("stages.cli"), f"{name} imports {other}"


def test_no_import_cycles() -> None:
    """Import statements alone: that a package's `__init__` runs before its modules is no cycle."""
    graph = {name: named(name) for name in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the cycle


def test_schemas_need_only_pyarrow_and_the_standard_library() -> None:
    for name, path in MODULES.items():
        if name.startswith("schemas"):
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                for imported in names:
                    top = str(imported).partition(".")[0]
                    assert top in sys.stdlib_module_names | {"pyarrow", "schemas"}, f"{name} imports {imported}"


def test_params_are_the_keys_that_change_what_a_stage_writes() -> None:
    """Compare the keys of `@stage`, read from the command, with the stage's params in dvc.yaml."""
    for name in CHECKED:
        command = importlib.import_module(module_of(STAGES[name])).main
        keys = {re.sub(r"\{\w+\}", "${key}", key) for key in command.tracked}
        listed = STAGES[name].get("params", [])  # keys of params.yaml, or {another file: its keys}
        lists = [list(*entry.values()) if isinstance(entry, dict) else [entry] for entry in listed]
        assert keys == {key for keys in lists for key in keys}, name


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("zarr", {"pipeline.store.zarr_payload"}),
        ("duckdb", {"pipeline.store.lookup", "pipeline.store_admin.integrity", "pipeline.report.views"}),
        ("ruamel", {"pipeline.runtime.yaml_files"}),
        ("peft", {"pipeline.models.lora"}),
    ],
)
def test_a_library_is_known_to_its_owners(library: str, owners: set[str]) -> None:
    importers = set()
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(imported.split(".")[0] == library for imported in names):
                importers.add(name)
    assert importers == owners


def test_who_asks_whether_a_model_has_an_encoder() -> None:
    asking = {
        name for name, path in MODULES.items() if "is_encoder_decoder" in (ROOT / path).read_text(encoding="utf-8")
    }
    assert {name.split(".")[1] for name in asking} == {"models"}


@pytest.mark.parametrize("folder", ["pipeline", "stages", "schemas", "bench", "tests"])
def test_no_placeholder_names(folder: str) -> None:
    """A variable is named by what it holds."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            name = node.id if stored else node.arg if isinstance(node, ast.arg) else None
            assert name not in PLACEHOLDERS, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name}"


@pytest.mark.parametrize("folder", ["pipeline", "stages", "schemas", "bench", "tests"])
def test_every_text_file_is_utf_8_in_any_locale(folder: str) -> None:
    """A call that reads or writes text names its encoding; the default is that of the locale."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _reads_or_writes_text(node):
                names = {keyword.arg for keyword in node.keywords}
                assert "encoding" in names, f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def _reads_or_writes_text(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    owner = getattr(getattr(node.func, "value", None), "id", "")
    if name != "open" or owner == "os" or (owner[:1].isupper() and owner != "Path"):  # Segment.open is of another kind
        text = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("text")
        return name in ("read_text", "write_text") or text == "True"
    arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return not any(isinstance(value, ast.Constant) and "b" in str(value.value) for value in arguments)


def test_no_test_module_is_imported() -> None:
    """What several tests need is in tests/factories.py and the helper modules beside it."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                assert parts[0] != "tests" or not any(part.startswith("test_") for part in parts), f"{path}: {name}"


def test_dvcignore_admits_source_files_only() -> None:
    """Ask DVC about files that an editor, Python or a person leaves in a package."""
    for package in ("pipeline/losses", "pipeline/report/page", "schemas"):
        for name, ignored in (
            ("new.py", False),
            ("new.pyc", True),
            (".new.py.swp", True),
            ("README.md", True),
            ("new.py~", True),
            ("__pycache__/new.cpython-311.pyc", True),
        ):
            check = [sys.executable, "-m", "dvc", "check-ignore", "-q", f"{package}/{name}"]
            assert (subprocess.run(check, cwd=ROOT, check=False).returncode == 0) == ignored, f"{package}/{name}"


def test_stages_are_named_by_what_they_are() -> None:
    schedule = ScheduleParams(total_steps=4, refresh_every=2, max_staleness=None)
    document = rounds_document(schedule, ["small"], [])
    assert list(document["rounds"]) == ["small-r1", "small-r2"]
    assert list(document["scores"]) == ["corpus", "small-r1", "small-r2"]
    assert list(document["checkpoints"]) == ["teacher", "small-init", "small-r1", "small-r2"]


def dvc_paths(document: dict[str, Any], kind: str) -> set[str]:
    """Return the files of every stage under work/ and logs/, with the loops unrolled; `kind` is outs or deps."""
    stages = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    paths = set()
    for stage in stages.values():
        items = document[stage["foreach"].strip("${}")] if "foreach" in stage else {"": {}}
        for key, item in items.items():
            values = {"key": key, "item": item, "teacher_dir": document["teacher_dir"]}
            values |= {f"item.{name}": value for name, value in item.items()} if isinstance(item, dict) else {}
            for path in stage.get("do", stage)[kind]:
                for name, value in values.items():
                    path = path.replace(f"${{{name}}}", str(value))
                paths.add(path)
    return {path for path in paths if path.split("/")[0] in ("work", "logs")}


def test_dvc_paths_are_the_layouts() -> None:
    schedule = ScheduleParams(total_steps=4, refresh_every=2, max_staleness=None)
    rounds = {student: [LAYOUT.round(student, id_) for id_ in ("r1", "r2")] for student in ("small", "tuned")}
    starts = {student: LAYOUT.round(student, "init") for student in rounds}
    trained = [files for of_student in rounds.values() for files in of_student]
    sft = ["teacher", "tuned"]
    outs = {LAYOUT.plan, LAYOUT.students, LAYOUT.teacher, LAYOUT.untuned_teacher, LAYOUT.prompts}
    outs |= {LAYOUT.base(student) for student in rounds} | {files.model for files in starts.values()}
    outs |= {LAYOUT.round("tuned", "untuned").model} | {LAYOUT.round(name, "sft").log for name in sft}
    outs |= {files.rollouts for files in [LAYOUT.corpus, *trained]}
    outs |= {files.segment for files in [LAYOUT.corpus, *trained]}
    outs |= {path for files in trained for path in (files.model, files.optimizer, files.log)}
    names = [f"{student}-{id_}" for student in rounds for id_ in ("r1", "r2")]
    checkpoints = ["teacher", *(f"{student}-init" for student in rounds), *names]
    evaluations = {LAYOUT.evaluation(name) for name in checkpoints}
    outs |= evaluations | {path.with_suffix(".parquet") for path in evaluations}
    outs |= {path(name) for name in checkpoints for path in (LAYOUT.prompt_metrics, LAYOUT.verdict)}
    stages = ["teacher", "prepare", "generate", "corpus-score", *(f"{name}-sft" for name in sft)]
    stages += [f"{student}-init" for student in rounds] + [f"{name}-evaluate" for name in checkpoints]
    stages += [f"{name}-{stage}" for name in names for stage in ("rollout", "score", "train")]
    outs |= {LAYOUT.cost(name) for name in stages}
    document = rounds_document(schedule, list(rounds), sft)
    assert dvc_paths(document, "outs") == {str(path) for path in outs}
    directories = {
        LAYOUT.ranks,
        *(prompts_file(LAYOUT.prompts, split) for split in ("train", "heldout")),
        LAYOUT.costs,
        LAYOUT.evaluations,
        LAYOUT.logs,
    }
    directories |= {files.directory for files in [*starts.values(), *trained]}
    assert dvc_paths(document, "deps") <= {str(path) for path in outs | directories}
