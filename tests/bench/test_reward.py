"""bench.end_to_end.reward at a tiny size: what its configurations share, and that only alpha differs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.end_to_end import reward
from pipeline.runtime.files import read_json
from pipeline.runtime.yaml_files import overlay_yaml, parse_yaml, read_yaml, write_yaml

ROOT = Path(__file__).parents[2]
SIZES = {"tuning": 1, "steps": 1, "refresh": 1, "prompts": 2, "samples": 2, "seeds": 1}
PRESET = (Path("presets/default.yaml"), Path("presets/arithmetic-tiny.yaml"))
ALONE, REWARDED = reward.CONFIGURATIONS[0], reward.CONFIGURATIONS[1]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The rows of both configurations, from the preset that the benchmark names, with few problems."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", "store")
    shutil.copytree(ROOT / "presets", "presets")
    text = overlay_yaml(*PRESET)
    Path("params.yaml").write_text(
        text.replace("prompts: 400", "prompts: 3").replace("problems: 20000", "problems: 60"), encoding="utf-8"
    )
    words = [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]
    done = CliRunner().invoke(reward.main, [*words, "--json", "rows.json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(Path("rows.json").read_text(encoding="utf-8"))["rows"]  # type: ignore[no-any-return]


def test_the_teacher_has_the_students_size_and_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(reward, "run_stage", lambda stage, /, **_: called.append(stage))
    monkeypatch.setattr(reward, "make_corpus", lambda: called.append("corpus"))
    params = parse_yaml(Path("params.yaml"), overlay_yaml(*PRESET).encode())
    for _ in range(2):  # the second call finds the project
        reward.make_equal_teacher(tmp_path / "project", params, 7)
    assert called == ["teacher", "prepare", "sft", "corpus", "evaluate"]
    params = read_yaml(tmp_path / "project/params.yaml")
    config = params["teacher"]["model"]["config"]
    assert config | params["student"]["small"]["config"] == config
    assert config["hidden_size"] == 96
    assert params["sft"]["teacher"] == params["sft"]["small"]
    assert params["sft"]["small"]["steps"] == params["sft"]["small"]["optimizer"]["decay_steps"] == 7


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_configurations_differ_in_alpha_alone_and_the_teacher_in_weights(rows: list[dict[str, Any]]) -> None:
    assert [row["name"] for row in rows] == ["before", *(entry.name for entry in reward.CONFIGURATIONS)]
    homes = [Path("reward-runs") / f"{entry.folder}-0" for entry in (ALONE, REWARDED)]
    alone, rewarded = (read_yaml(home / "params.yaml") for home in homes)
    assert alone["objective"].pop("alpha") == 1
    assert rewarded["objective"].pop("alpha") < 1
    assert alone == rewarded
    assert alone["reward"] == {"exact_match": 1.0}
    assert len({(home / "work/small/init").resolve() for home in homes}) == 1
    assert [row["training_reward"] for row in rows] == [0.0, 0.0, 0.0]  # of a student that knows nothing
    models = [homes[0] / "work" / name for name in ("teacher", "small/init/model")]
    configs = [read_json(model / "config.json") for model in models]
    assert configs[0] == configs[1]
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] != weights[1]


def test_the_training_reward_is_the_last_rounds_and_before_training_the_firsts(tmp_path: Path) -> None:
    home = tmp_path / f"{REWARDED.folder}-0"
    for name, values in (("r1", "0.5\n0.5\n"), ("r2", "0.25\n0.75\n0.8\n")):
        (home / "logs/small" / name).mkdir(parents=True)
        (home / "logs/small" / name / "train.csv").write_text(f"reward\n{values}", encoding="utf-8")
    write_yaml(
        home / "rounds.yaml",
        {"rounds": {id_: {"round": id_, "prev": "", "first_step": 0, "steps": 1} for id_ in ("r1", "r2")}},
        comment="Of a test.",
    )
    before, after = (
        reward.add_training_reward({"name": name, "seed": 0}, [REWARDED], tmp_path)
        for name in ("before", REWARDED.name)
    )
    assert before["training_reward"] == 0.5
    assert after["training_reward"] == pytest.approx(0.6)
