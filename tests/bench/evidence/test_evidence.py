"""bench.evidence: its intervals by hand, and questions 1 and 2 from nothing at a tiny size."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from bench.evidence import commands, tables
from bench.evidence.llama2c import write_model
from bench.evidence.side_by_side import side_by_side
from bench.evidence.stories import Judge
from bench.output import Row
from pipeline.core.files import read_prompts
from pipeline.runtime.yaml_files import read_yaml
from tests.llama2c_files import tokenizer_file, weights_file

ROOT = Path(__file__).parents[3]
START = {"steps": 1, "learning_rate": 1e-3}
METHODS = ["off-forward_kl", "on-jsd-0.1"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change into an empty bench/evidence, beside a copy of the presets."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    home = tmp_path / "bench/evidence"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)


def test_intervals_are_those_of_student_s_t() -> None:
    assert tables.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / 3**0.5))
    rows, others = ([{"seed": seed, "x": seed * factor} for seed in (1, 2, 3)] for factor in (3.0, 1.0))
    assert tables.paired(rows, others, "x") == pytest.approx((4.0, 4.303 * 2 / 3**0.5))
    assert tables.ratio([2.0, 4.0], [1.0, 2.0]) == pytest.approx((2.0, 0.0))
    assert tables.title("on-jsd-0.1") == "on-policy, JSD(0.1)"


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("workplace")
def test_question_1_at_a_tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "bench/evidence/params.yaml")
    params["stories"] |= {
        "train": 6,
        "heldout": 8,
        "opening_words": 1,
        "continuation_words": 1,
        "batch_size": 16,
        "max_tokens": 12,
    }
    task = params["tasks"]["stories"] | {"start": START, "seeds": [0, 1], "methods": METHODS}
    task["tuning"]["rates"] = [1e-3]
    params["few"] = {"methods": [], "seeds": [0]}
    params |= {"variants": {"unbiased": {"objective.tail_estimator": "residual"}}, "tasks": {"stories": task}}
    grid = {"projects": ["stories", "unbiased"], "methods": METHODS[1:], "refresh": [1], "uses": [3]}
    params["stale"] = {
        "seeds": [0, 1],
        "grids": [grid | {"projects": ["truncated"], "refresh": [2], "uses": [1]}, grid],
    }
    yaml.dump(params, Path("params.yaml"))
    preset = yaml.load(ROOT / "bench/evidence/stories.yaml")
    preset["schedule"] = {"total_steps": 2, "refresh_every": 2}
    preset["task"] |= {"train": 6, "heldout": 8}
    preset["student"]["small"]["layers"] = [0]
    preset["corpus"] |= {"references": 3, "generations": 3}
    preset["rollout"]["sampling"]["max_new_tokens"] = preset["evaluation"]["max_new_tokens"] = 4
    preset["batches"] = {"batch_size": 2, "micro_batch_size": 2}
    preset["optimizer"]["warmup_steps"] = 0
    preset["evaluation"] |= {"prompts": 4, "recorded_prompts": 4}
    yaml.dump(preset, Path("stories.yaml"))
    for name, write in (("write_teacher", lambda _, out: out), ("write_judge", lambda out: out)):
        monkeypatch.setattr(commands, name, lambda *words, write=write: tiny_model(write(*words)))

    run("data")
    run("project", "stories")
    run("variants")
    for command in ("starts", "tune", "compare"):
        run(command, "stories")
    run("stale")
    run("tables")
    rows = {(row["method"], row["seed"]): row for row in rows_of("stories-compare")}
    assert list(rows) == [(method, seed) for method in METHODS for seed in (0, 1)]
    assert len({row["reverse_kl"] for row in rows.values()}) == 4
    kinds = [(row["project"], row["refresh"], row["uses"]) for row in rows_of("stories-stale")]
    assert kinds == [*[("truncated", 2, 1)] * 2, *[("stories", 1, 3)] * 2, *[("unbiased", 1, 3)] * 2]
    assert read_yaml(Path("work/projects/unbiased/params.yaml"))["objective"]["tail_estimator"] == "residual"
    assert Path("tables/stories-means.md").read_text(encoding="utf-8").count("\n") == 6
    assert "on-policy, JSD(0.1)" in Path("tables/stories-ratios.md").read_text(encoding="utf-8")
    assert "on-policy, JSD(0.1)" in Path("tables/stories.svg").read_text(encoding="utf-8")
    assert headings("stories-staleness") == [
        "stories: on-policy, JSD(0.1), every 2, used 1",
        "stories: on-policy, JSD(0.1), every 1, used 3",
        "truncated: on-policy, JSD(0.1), every 2, used 1",
        "unbiased: on-policy, JSD(0.1), every 1, used 3",
    ]
    assert headings("stories-stores") == [
        "truncated: on-policy, JSD(0.1), every 2, used 1, minus stories",
        "unbiased: on-policy, JSD(0.1), every 1, used 3, minus stories",
    ]
    changed = [path.stat().st_mtime_ns for path in sorted(Path("work/runs").glob("*/row.json"))]
    run("compare", "stories")  # no run is repeated
    assert [path.stat().st_mtime_ns for path in sorted(Path("work/runs").glob("*/row.json"))] == changed
    task["start"] = START | {"steps": 2}
    yaml.dump(params, Path("params.yaml"))
    run("compare", "stories")  # from other starts
    again = {(row["method"], row["seed"]): row for row in rows_of("stories-compare")}
    assert again[METHODS[0], 0]["reverse_kl"] != rows[METHODS[0], 0]["reverse_kl"]


def rows_of(name: str) -> list[Row]:
    return list(json.loads(Path(f"rows/{name}.json").read_text(encoding="utf-8"))["rows"])


def headings(table: str) -> list[str]:
    lines = Path(f"tables/{table}.md").read_text(encoding="utf-8").splitlines()[2:]
    return [line.split("|")[1].strip() for line in lines]


def run(*words: str) -> None:
    assert CliRunner().invoke(commands.main, ["--processes", "1", *words], catch_exceptions=False).exit_code == 0


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("workplace")
def test_question_2_at_a_tiny_size() -> None:
    yaml = YAML(typ="safe")
    params, changes = (yaml.load(ROOT / f"bench/evidence/{name}.yaml") for name in ("params", "arithmetic"))
    task = params["tasks"]["repair"] | {"start": START, "seeds": [0, 1], "methods": METHODS}
    task["tuning"] |= {"rates": [1e-3, 2e-3], "most_rates": 3}
    params["few"] = {"methods": [], "seeds": [0]}
    params["tasks"] = {"repair": task}
    params["longer"] |= {"steps": 4, "refresh": 2, "seeds": [0, 1], "methods": METHODS}
    yaml.dump(params, Path("params.yaml"))
    preset = yaml.load(ROOT / "presets/arithmetic-tiny.yaml")
    preset["teacher"]["model"]["config"] |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    preset["student"]["small"]["config"] = {"hidden_size": 8, "head_dim": 4, "num_hidden_layers": 1}
    for name in ("teacher", "small"):
        preset["sft"][name] |= {"steps": 1, "batch_size": 2, "micro_batch_size": 2}
        preset["sft"][name]["optimizer"] |= {"warmup_steps": 0, "decay_steps": 1}
    yaml.dump(preset, Path("../../presets/arithmetic-tiny.yaml"))
    changes |= {"schedule": {"total_steps": 2, "refresh_every": 2}, "corpus": {"references": 4, "generations": 1}}
    del changes["sft"]  # the preset's, above, is smaller
    changes["task"] |= {"train": 6, "heldout": 8}
    changes["batches"] = {"batch_size": 2, "micro_batch_size": 2}
    changes["optimizer"]["warmup_steps"] = 0
    changes["evaluation"] = {"prompts": 4, "batch_size": 4, "recorded_prompts": 0}
    yaml.dump(changes, Path("arithmetic.yaml"))

    run("project", "repair")
    for command in ("starts", "tune", "compare"):
        run(command, "repair")
    run("longer")
    run("tables")
    tried = [row["rate"] for row in rows_of("repair-tune") if row["method"] == METHODS[0]]
    assert tried in ([5e-4, 1e-3, 2e-3], [1e-3, 2e-3, 4e-3])
    rows = [row for row in rows_of("repair-compare") if row["method"] == METHODS[1]]
    assert [(row["seed"], row["project"]) for row in rows] == [(0, "repair"), (1, "repair")]
    assert {"repaired_at_1", "repaired", "exact_match_at_1", "seconds_of_processor"} <= rows[0].keys()
    assert headings("repair-means") == ["teacher", "start", "off-policy, forward KL", "on-policy, JSD(0.1)"]
    assert "on-policy, JSD(0.1)" in Path("tables/repair-ratios.md").read_text(encoding="utf-8")
    assert "off-policy, forward KL" in Path("tables/repair-longer-means.md").read_text(encoding="utf-8")
    assert "repair: exact match at 1" in Path("tables/repair.svg").read_text(encoding="utf-8")
    prompts = read_prompts(Path("work/projects/repair/work/prompts"), "train")
    assert len(prompts) == 6  # the teacher alone reads mistakes
    assert not Path("work/starts/repair-0/work/small/r1/optimizer.pt").exists()


def test_runs_side_by_side_keep_their_order() -> None:
    assert side_by_side([partial(dict, seed=seed) for seed in range(3)], 2) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    with pytest.raises(TypeError):
        side_by_side([partial(dict, 1), partial(dict, seed=1)], 2)


def tiny_model(out: Path) -> None:
    write_model(weights_file(tied=True), tokenizer_file(), out)


def test_the_judge_s_nats_are_those_of_the_continuation_alone(tmp_path: Path) -> None:
    tiny_model(tmp_path / "judge")
    judge = Judge(tmp_path / "judge")
    whole, opening, rest = judge.nats([("", "a b a c"), ("", "a b"), ("a b", " a c")])
    assert rest == pytest.approx(whole - opening, rel=1e-4)
    assert judge.nats_per_byte([("a b", " a c"), ("a b", "")]) == pytest.approx(rest / 4)
