"""presets/: every overlay gives valid parameters, the command chooses one, and each runs to its end at a tiny size."""

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import networkx as nx
import pytest
from click.testing import CliRunner
from dvc.repo import Repo
from ruamel.yaml import YAML

from bench.end_to_end.job import merged
from pipeline.runtime.config import section
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.yaml_files import overlay_yaml, parse_yaml, read_yaml
from pipeline.workspace.parameter_reference import parameter_schema
from pipeline.workspace.presets import defaults_of_methods
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from pipeline.workspace.validation import check_params
from stages.cli.main import commands

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "presets/default.yaml"
NAMES = sorted({path.stem for path in (ROOT / "presets").glob("*.yaml")} - {"default"})
METHODS = sorted(path.stem for path in (ROOT / "presets/methods").glob("*.yaml"))
DIVERGENCES = sorted(path.stem for path in (ROOT / "presets/divergences").glob("*.yaml"))
TINY: dict[tuple[str, ...], Any] = {
    ("schedule", "total_steps"): 2,
    ("schedule", "refresh_every"): 1,
    ("task", "train"): 6,
    ("task", "heldout"): 2,
    ("task", "max_prompt_tokens"): 2000,
    ("teacher", "model"): "models/teacher",
    ("teacher", "revision"): None,
    ("corpus", "references"): 2,
    ("corpus", "generations"): 2,
    ("corpus", "samples_per_prompt"): 1,
    ("rollout", "prompts"): 2,
    ("rollout", "samples_per_prompt"): 2,
    ("rollout", "batch_size"): 4,
    ("rollout", "sampling", "max_new_tokens"): 6,
    ("scoring", "batch_size"): 1,
    ("batches", "batch_size"): 4,
    ("batches", "micro_batch_size"): 4,
    ("evaluation", "prompts"): 2,
    ("evaluation", "max_new_tokens"): 6,
}
PACKAGES = {"train_packages": ["json", "rouge_score"], "heldout_packages": ["email"], "min_chars": 60}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that has the presets and nothing else."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_of(name: str, method: str | None = None) -> str:
    methods = [ROOT / f"presets/methods/{method}.yaml"] if method else []
    return overlay_yaml(DEFAULT, ROOT / f"presets/{name}.yaml", *methods)


def parameters_of(name: str, method: str | None = None) -> dict[str, Any]:
    text = text_of(name, method)
    return deepcopy(parse_yaml(Path(f"{name}-{method}"), text.encode()))


def test_the_committed_parameters_are_the_default_preset() -> None:
    """If they are not, run `stillroom preset docstrings --force`."""
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == text_of("docstrings")
    assert read_yaml(ROOT / "params.yaml") == read_yaml(DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_valid_and_has_a_title(name: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text_of(name), encoding="utf-8")
    check_params(path)
    jsonschema.validate(read_yaml(path), parameter_schema())
    assert list(read_yaml(path)) == list(read_yaml(DEFAULT))
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "# yaml-language-server: $schema=schemas/params.schema.json"
    assert second.startswith(f"# Preset `{name}`: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_holds_only_what_differs(name: str) -> None:
    def leaves(value: Any, base: Any) -> Iterator[tuple[Any, Any]]:
        if isinstance(value, dict) and isinstance(base, dict) and value.keys() <= base.keys():
            for key in value:
                yield from leaves(value[key], base[key])
        else:
            yield value, base

    overlay = read_yaml(ROOT / f"presets/{name}.yaml")
    assert [value for value, base in leaves(overlay, read_yaml(DEFAULT)) if value == base] == []


def test_a_changed_value_loses_the_comment_about_the_old_one() -> None:
    assert "found by `python -m bench.end_to_end.layers`" in text_of("docstrings")
    assert "found by `python -m bench.end_to_end.layers`" not in text_of("gsm8k-qwen2.5")
    assert "model: Qwen/Qwen2.5-1.5B-Instruct  # or a local directory\n" in text_of("gsm8k-qwen2.5")
    assert "\n\n  " not in text_of("instructions")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_documented(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/presets.md").read_text(encoding="utf-8")


def chosen(*args: str) -> Any:
    return CliRunner().invoke(commands, ["preset", *args])


def test_choosing_writes_parameters_and_rounds(project: Path) -> None:
    assert chosen("gsm8k").exit_code == 0
    assert (project / "params.yaml").read_text(encoding="utf-8") == text_of("gsm8k")
    assert next(iter(read_yaml(project / "rounds.yaml")["rounds"].values()))["prev"] == "init"
    assert chosen("docstrings").exit_code == 0  # nothing of one's own is lost
    assert (project / "params.yaml").read_text(encoding="utf-8") == text_of("docstrings")


def test_edits_are_kept_unless_forced(project: Path) -> None:
    mine = text_of("gsm8k").replace("seed: 0", "seed: 7")
    (project / "params.yaml").write_text(mine, encoding="utf-8")
    refused = chosen("instructions").exception
    assert isinstance(refused, DataError)
    assert str(refused) == (
        "params.yaml: expected a preset as it was written, got changes to it; keep a copy and add --force"
    )
    assert (project / "params.yaml").read_text(encoding="utf-8") == mine
    assert chosen("instructions", "--force").exit_code == 0
    assert read_yaml(project / "params.yaml")["task"]["name"] == "instructions"


def test_edited_rounds_are_kept_unless_forced(project: Path) -> None:
    assert chosen("gsm8k").exit_code == 0
    mine = (project / "rounds.yaml").read_text(encoding="utf-8").replace("steps: 8", "steps: 7", 1)
    (project / "rounds.yaml").write_text(mine, encoding="utf-8")
    assert str(chosen("docstrings").exception).startswith("rounds.yaml: expected the rounds of a preset, got others")
    assert (project / "rounds.yaml").read_text(encoding="utf-8") == mine
    assert (project / "params.yaml").read_text(encoding="utf-8") == text_of("gsm8k")
    assert chosen("docstrings", "--force").exit_code == 0
    assert (project / "rounds.yaml").read_text(encoding="utf-8") != mine


def test_without_a_name_the_presets_are_listed(project: Path) -> None:
    assert chosen("gsm8k").exit_code == 0
    lines = chosen().output.splitlines()
    assert [line.split()[0] for line in lines if line[0] != "*"] == [name for name in NAMES if name != "gsm8k"]
    assert [line for line in lines if line[0] == "*"] == [
        line for line in lines if "worked answers to grade-school" in line
    ]
    assert all(len(line.split()) > 3 for line in lines)


def test_an_unknown_preset_lists_those_that_exist(project: Path) -> None:
    refused = chosen("gsm9k").exception
    assert isinstance(refused, ParameterError)
    assert str(refused) == f"preset: expected one of: {', '.join(NAMES)}, got 'gsm9k'; run in the project's root"
    assert not (project / "params.yaml").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["arithmetic-tiny", "docstrings", "translation-t5"])
def test_a_method_changes_what_it_names_alone(project: Path, name: str, method: str) -> None:
    text = text_of(name, method)
    (project / "params.yaml").write_text(text, encoding="utf-8")
    check_params(project / "params.yaml")
    wanted = parameters_of(name)
    document = read_yaml(project / f"presets/methods/{method}.yaml")
    for section_, keys in document.items():
        assert keys.keys() <= wanted[section_].keys()
    assert read_yaml(project / "params.yaml") == merged(wanted, document)
    assert text.splitlines()[1].startswith(f"# Method `{method}`: ")


def test_methods_differ_in_the_texts_and_in_the_loss() -> None:
    documents = {name: read_yaml(ROOT / f"presets/methods/{name}.yaml") for name in METHODS}

    def what(name: str) -> tuple[float, dict[str, float] | None, float]:
        batches = documents[name]["batches"]
        weights = batches["corpus_weights"]
        cross_entropy = documents[name]["objective"]["cross_entropy"]
        return batches["student_fraction"], weights and dict(weights), cross_entropy

    dataset, teacher = ({"dataset": a, "teacher": 1 - a} for a in (1, 0))
    assert {name: what(name) for name in METHODS} == {
        "sft": (0, dataset, 1),
        "supervised": (0, dataset, 0),
        "sequence-level": (0, teacher, 1),
        "teacher": (0, teacher, 0),
        "mixed": (0.5, dataset, 0),
        "on-policy": (1, None, 0),
    }
    assert all(("rollout" in document) == (what(name)[0] == 0) for name, document in documents.items())
    # A method that trains on the corpus alone reads all of its source.
    corpora = {name: dict(document["corpus"]) for name, document in documents.items() if "corpus" in document}
    references, generations = ({"references": None, "generations": 0}, {"references": 0, "generations": None})
    assert corpora == {
        "sft": references,
        "supervised": references,
        "sequence-level": generations,
        "teacher": generations,
    }


@pytest.mark.parametrize(
    ("method", "divergence"),
    [(None, "jsd"), ("mixed", "jsd"), ("on-policy", "forward_kl"), ("supervised", "reverse_kl"), ("teacher", "jsd")],
)
def test_a_divergence_fits_each_method_that_has_one(project: Path, method: str | None, divergence: str) -> None:
    words = ["--method", method] if method else []
    assert chosen("arithmetic-tiny", *words, "--divergence", divergence).exit_code == 0
    wanted = merged(parameters_of("arithmetic-tiny", method), {"objective": {"divergence": {"name": divergence}}})
    assert read_yaml(project / "params.yaml") == wanted
    assert chosen("docstrings").exit_code == 0  # nothing of one's own was lost


@pytest.mark.parametrize("method", ["sequence-level", "sft"])
def test_a_divergence_is_refused_where_the_loss_has_none(project: Path, method: str) -> None:
    refused = chosen("gsm8k", "--method", method, "--divergence", "jsd").exception
    assert isinstance(refused, ParameterError)
    assert str(refused) == (
        "method: expected a method with a divergence: mixed, on-policy, supervised, teacher, "
        f"got {method!r}; name one, or leave out --divergence"
    )
    refused = chosen("gsm8k", "--divergence", "kl").exception
    assert str(refused) == f"divergence: expected one of: {', '.join(DIVERGENCES)}, got 'kl'; run in the project's root"
    assert not (project / "params.yaml").exists()


def test_the_defaults_of_methods_are_the_default_jobs_values(project: Path) -> None:
    default = parameters_of("docstrings")
    defaults = defaults_of_methods()
    for method in METHODS:
        document = parameters_of("docstrings", method)
        for keys in defaults:
            *above, last = keys
            base, place = default, document
            for key in above:
                base, place = base[key], place[key]
            assert defaults[keys] == base[last]
            place[last] = defaults[keys]
        assert document == default


def test_an_unknown_method_lists_those_that_exist_and_writes_nothing(project: Path) -> None:
    refused = chosen("gsm8k", "--method", "gkd").exception
    assert isinstance(refused, ParameterError)
    assert str(refused) == f"method: expected one of: {', '.join(METHODS)}, got 'gkd'; run in the project's root"
    assert not (project / "params.yaml").exists()


def test_edits_of_a_preset_with_a_method_are_kept(project: Path) -> None:
    assert chosen("gsm8k", "--method", "supervised").exit_code == 0
    assert chosen("gsm8k", "--method", "on-policy").exit_code == 0  # nothing of one's own was lost
    mine = (project / "params.yaml").read_text(encoding="utf-8").replace("seed: 0", "seed: 7")
    (project / "params.yaml").write_text(mine, encoding="utf-8")
    assert isinstance(chosen("gsm8k").exception, DataError)
    assert (project / "params.yaml").read_text(encoding="utf-8") == mine


def write_data(document: dict[str, Any]) -> None:
    """Write a hundred rows with the columns that a preset names, in files with the names of its splits."""
    settings = document["task"]["settings"]
    settings |= {"data": "data", "config": None, "revision": None}
    columns = {key: value for key, value in settings.items() if key.endswith("_column") and value}
    Path("data").mkdir()
    for split in {settings[key].partition("[")[0] for key in ("train_split", "heldout_split")}:
        rows = []
        for number in range(100):
            row: dict[str, Any] = {}
            for key, column in columns.items():
                *above, last = column.split(".")
                place = row
                for part in above:
                    place = place.setdefault(part, {})
                place[last] = f"{split} {key} of row\n#### {number}"
            rows.append(json.dumps(row))
        Path(f"data/{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def shrink(
    name: str, document: dict[str, Any], make_model_dir: Callable[..., Path], make_t5_dir: Callable[..., Path]
) -> None:
    for (*above, last), value in TINY.items():
        place = document
        for key in above:
            place = place[key]
        place[last] = value
    if "-t5" in name:
        make_t5_dir(Path("models/teacher"), layers=2, seed=1)
    else:
        make_model_dir(Path("models/teacher"), layers=2, seed=1, max_position_embeddings=4096)
    for tuning in document["sft"].values():
        tuning |= {"steps": 2}
    for student in document["student"].values():
        student |= {"model": "teacher", "revision": None, "layers": [0], "config": None}
    if document["task"]["name"] == "docstrings":
        document["task"]["settings"] |= PACKAGES
    elif "data" in document["task"]["settings"]:
        write_data(document)


def commands_of(project: Path) -> list[list[str]]:
    """Return the commands of dvc.yaml in an order that its dependencies allow."""
    with Repo(str(project)) as repo:
        return [stage.cmd.split() for stage in nx.dfs_postorder_nodes(repo.index.graph)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_runs_to_its_end_at_a_tiny_size(
    name: str,
    project: Path,
    make_model_dir: Callable[..., Path],
    make_t5_dir: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STILLROOM_STORE", "store")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", "site")
    document = parameters_of(name)
    shrink(name, document, make_model_dir, make_t5_dir)
    YAML(typ="safe").dump(document, Path("params.yaml"))
    schedule = section(Path("params.yaml"), ScheduleParams, "schedule")
    write_rounds(Path("rounds.yaml"), schedule, document["students"], document["sft"])
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    for command in commands_of(project):
        at = command.index("-m")
        importlib.import_module(command[at + 1]).main.main(command[at + 2 :], standalone_mode=False)
    metrics = json.loads(Path("report/metrics.json").read_text(encoding="utf-8"))
    after = metrics["students"]["small"]["after"]
    assert {metrics["headline"], "forward_kl", "teacher_logp"} <= set(after)
