"""The shape of the project: who may import whom, and that dvc.yaml names what each stage's numbers depend on."""

import ast
import functools
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
FIRST_PARTY = ("pipeline", "stages", "schemas")
# A change in these cannot alter a number: they carry messages, files, progress, and what is told beside a model.
PLUMBING = {
    "pipeline.card",
    "pipeline.errors",
    "pipeline.journal",
    "pipeline.lineage",
    "pipeline.params",
    "pipeline.progress",
    "pipeline.provenance",
    "pipeline.tables",
    "schemas.lineage",
    "stages.command",
    "stages.pedigree",
}
LAYERS = [
    {"records", "errors", "params", "fingerprint", "journal", "progress", "ranks", "shared"},
    {
        "tables",
        "text",
        "kv_cache",
        "lm",
        "passes",
        "adapter",
        "averaging",
        "families",
        "onnx_t5",
        "head",
        "topk",
        "ragged",
        "sequences",
        "windows",
        "payload",
        "segment",
        "store",
        "catalog",
    }
    | {
        "codecs",
        "codecs.accuracy",
        "codecs.base",
        "codecs.expected",
        "codecs.rskd",
        "codecs.sqrt8",
        "codecs.topk",
        "divergence",
    }
    | {
        "supports",
        "upkeep",
        "views",
        "staleness",
        "tempering",
        "collation",
        "surrogate",
        "rewards",
        "export",
        "intake",
        "plain",
    }
    | {"transfer", "mixing", "certain"}
    | {"schedule", "template", "training_log", "pretrained", "engines.base", "engines.hf"}
    | {"tasks", "tasks.base", "tasks.table", "tasks.rows", "tasks.sources"}
    | {"tasks.numbers", "tasks.rouge", "tasks.bleu"}
    | {"tasks.arithmetic", "tasks.docstrings", "tasks.gsm8k", "tasks.instructions", "tasks.summarisation"}
    | {"tasks.translation"}
    | {"fresh", "card", "lineage", "provenance"}
    | {"measures", "page", "page.charts", "page.costs", "page.findings", "page.heatmap", "page.html", "page.quality"}
    | {"page.scores", "page.training", "page.vega"},
    {"prompts", "rollouts", "scoring", "rescore", "batches", "objective", "training", "evaluation", "report"}
    | {"picture"},
    {"configuration", "forecast", "tuning"},
    {
        "beginning",
        "checkup",
        "columns",
        "room",
        "lockfile",
        "reference",
        "standing",
        "story",
        "page.origins",
        "page.run",
    },
]
ALLOWED_STEP_IMPORTS = {("training", "objective")}


def modules() -> dict[str, Path]:
    """Every first-party module and its file; packages under their own name."""
    found = {}
    for package in FIRST_PARTY:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def imports(name: str) -> set[str]:
    """First-party modules that a module imports by itself."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {one for one in found if one in MODULES and MODULES[one].read_text().count("import ")}


@functools.cache
def closure(name: str) -> set[str]:
    """Everything that a module imports, directly or not, itself included."""
    seen: set[str] = set()
    waiting = {name}
    while waiting:
        one = waiting.pop()
        seen.add(one)
        waiting |= imports(one) - seen
    return seen


def code_deps(name: str) -> list[str]:
    """The files that dvc.yaml has to list for a stage module."""
    return sorted(MODULES[one].relative_to(ROOT).as_posix() for one in closure(name) - PLUMBING)


def stages() -> dict[str, dict[str, Any]]:
    document = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
    return {name: stage.get("do", stage) for name, stage in document["stages"].items()}


STAGES = stages()


def module_of(stage: dict[str, Any]) -> str:
    words = stage["cmd"].split()
    return words[words.index("-m") + 1]


@pytest.mark.parametrize("name", [name for name in STAGES if name != "plan"])
def test_code_dependencies_are_the_import_closure(name: str) -> None:
    listed = sorted(one for one in STAGES[name]["deps"] if one.endswith(".py"))
    assert listed == code_deps(module_of(STAGES[name]))


@pytest.mark.parametrize("name", [name for name in STAGES if name != "plan"])
def test_params_are_the_sections_a_stage_reads(name: str) -> None:
    """Found as string arguments of `section(PARAMS, Class, *keys)` and `lookup(PARAMS, *keys)`."""
    read = set()
    for node in ast.walk(ast.parse(MODULES[module_of(STAGES[name])].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"section", "lookup"}:
            keys = node.args[2:] if node.func.id == "section" else node.args[1:]
            read.add(".".join(key.value if isinstance(key, ast.Constant) else "${item}" for key in keys))
    listed = {one.replace("${key}", "${item}") for one in STAGES[name].get("params", [])}
    assert read == listed


def test_modules_import_only_lower_layers() -> None:
    level = {f"pipeline.{name}": index for index, layer in enumerate(LAYERS) for name in layer}
    level |= {"pipeline": -1, "pipeline.engines": 0}
    steps = {f"pipeline.{name}" for name in LAYERS[2]}
    for name in MODULES:
        if not name.startswith("pipeline"):
            continue
        assert name in level, f"{name} stands in no layer"
        for other in imports(name):
            assert not other.startswith("stages"), f"{name} imports {other}"
            if other.startswith("schemas"):
                continue
            assert level[other] <= level[name], f"{name} imports {other} from a higher layer"
            if name in steps and other in steps:
                pair = (name.removeprefix("pipeline."), other.removeprefix("pipeline."))
                assert pair in ALLOWED_STEP_IMPORTS, f"step {name} imports step {other}"


def test_no_import_cycles() -> None:
    for name in MODULES:
        for other in imports(name):
            assert name not in closure(other) or other in name or name in other, f"{name} and {other} import each other"


def test_schemas_need_only_pyarrow_and_the_standard_library() -> None:
    import sys

    for name, path in MODULES.items():
        if name.startswith("schemas"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                for one in names:
                    top = str(one).partition(".")[0]
                    assert top in sys.stdlib_module_names | {"pyarrow", "schemas"}, f"{name} imports {one}"


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("zarr", ["pipeline.payload"]),
        ("duckdb", ["pipeline.catalog", "pipeline.views"]),  # what stages depend on, and what they do not
        ("ruamel", ["pipeline.params"]),
        ("peft", ["pipeline.adapter"]),
    ],
)
def test_a_library_is_known_to_its_owners(library: str, owners: list[str]) -> None:
    for name, path in MODULES.items():
        text = path.read_text()
        if f"import {library}" in text or f"from {library}" in text:
            assert name in owners, f"{name} imports {library}, which only {owners} may"


def test_who_asks_whether_a_model_has_an_encoder() -> None:
    """The face of all models and its two halves: what its passes and what its configuration are like."""
    asking = {name for name, path in MODULES.items() if "is_encoder_decoder" in path.read_text()}
    assert asking == {f"pipeline.{name}" for name in ("families", "lm", "passes")}
