"""bench.end_to_end.methods: its error and table by hand, its picture, and a whole comparison at a tiny size."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from bench.end_to_end import methods
from bench.end_to_end.methods_picture import render_methods
from pipeline.runtime.yaml_files import overlay_yaml, parse_yaml, read_yaml
from pipeline.workspace.presets import DIVERGENCES, METHODS
from pipeline.workspace.schedule import follow_params
from stages import evaluate, generate, plan, prepare, score, teacher

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = [
    {"name": "a", "seed": 0, "exact_match": 0.1, "forward_kl": 1.0},
    {"name": "a", "seed": 1, "exact_match": 0.3, "forward_kl": 2.0},
    {"name": "b", "seed": 0, "exact_match": 0.5, "forward_kl": 0.5},
    {"name": "b", "seed": 1, "exact_match": 0.5, "forward_kl": 0.5},
]


def test_the_error_of_a_mean_pools_the_variances_of_all_groups() -> None:
    assert methods.pooled_error([[1.0, 3.0], [5.0, 9.0]]) == pytest.approx((((2 + 8) / 2) / 2) ** 0.5)
    assert methods.pooled_error([[1.0], [2.0]]) is None


def test_the_table_has_a_row_per_configuration_between_teacher_and_error() -> None:
    table = methods.table(ROWS, ["exact_match", "forward_kl"], {"exact_match": 0.9})
    assert table[1:] == [
        ["teacher", "90.0%", ""],
        ["a", "20.0%", "1.500"],
        ["b", "50.0%", "0.500"],
        ["standard error", "7.1%", "0.354"],
    ]


def test_every_configuration_has_a_method_and_a_directory_of_its_own() -> None:
    assert len({entry.folder for entry in methods.CONFIGURATIONS}) == len(methods.CONFIGURATIONS)
    for folder, names in (
        (METHODS, {entry.method for entry in methods.CONFIGURATIONS}),
        (DIVERGENCES, {entry.divergence for entry in methods.CONFIGURATIONS if entry.divergence}),
    ):
        assert names == {path.stem for path in (ROOT / folder).glob("*.yaml")}


def test_the_picture_is_the_same_for_the_same_rows() -> None:
    pictures = [render_methods(ROWS, ["exact_match", "forward_kl"], {"exact_match": 0.9}) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert "exact match" in pictures[0]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a project with everything that all configurations share, from the preset at a tiny size."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", "store")
    shutil.copytree(ROOT / "presets", "presets")
    preset = overlay_yaml(Path("presets/default.yaml"), Path("presets/arithmetic-tiny.yaml"))
    document = parse_yaml(Path("params.yaml"), preset.encode())
    document["teacher"]["model"]["config"] |= {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    document["student"]["small"] |= {"config": {"num_hidden_layers": 1}}
    document["sft"] = {"small": document["sft"]["small"] | {"steps": 1}}
    document["schedule"] |= {"total_steps": 2, "refresh_every": 1}
    document["task"]["settings"] |= {"problems": 300}
    document["task"] |= {"train": 8, "heldout": 3}
    document["corpus"] |= {"references": 4, "generations": 4}
    document["rollout"] |= {"prompts": 2}
    document["evaluation"] |= {"prompts": 3}
    YAML(typ="safe").dump(document, Path("params.yaml"))
    follow_params()
    for stage, *words in (
        (plan,),
        (teacher, "--out", "work/teacher"),
        (prepare, "--teacher", "work/teacher"),
        (generate,),
        (score, "--rollouts", "work/corpus/rollouts.parquet", "--out", "work/corpus/segment", "--name", "corpus-score"),
    ):
        stage.main.main(words, standalone_mode=False)
    evaluate.main.main(["--name", "teacher", "--model", "work/teacher"], standalone_mode=False)
    return tmp_path


@pytest.mark.filterwarnings("default")
def test_configurations_share_the_initial_student_and_differ_in_their_data(project: Path) -> None:
    names = ["SFT", "on-policy, forward KL"]
    words = ["--seeds", "1", "--json", "rows.json", *(word for name in names for word in ("--only", name))]
    done = CliRunner().invoke(methods.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    rows = json.loads((project / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == ["before", *names]
    assert [row["scored_positions"] > 0 for row in rows] == [False, False, True]
    tuned, own = (project / "runs" / name / "work/small" for name in ("sft-0", "on-policy-forward-kl-0"))
    assert (tuned / "init").resolve() == (own / "init").resolve()
    assert (tuned / "r2/model/model.safetensors").read_bytes() != (own / "r2/model/model.safetensors").read_bytes()
    assert read_yaml(own.parent.parent / "params.yaml")["batches"]["student_fraction"] == 1.0
    assert read_yaml(tuned.parent.parent / "params.yaml")["corpus"] == read_yaml(project / "params.yaml")["corpus"]
    before = (own / "r2/model/model.safetensors").stat().st_mtime_ns
    CliRunner().invoke(methods.main, words, catch_exceptions=False)
    assert (own / "r2/model/model.safetensors").stat().st_mtime_ns == before  # nothing is trained twice
