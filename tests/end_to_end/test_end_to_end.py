"""The whole pipeline as its user runs it: `dvc repro` in a copy of this project, with small random models.

One project is run to its end for the module; every test goes on from a copy of it.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.core.files import read_rollouts
from pipeline.core.hashing import file_digest, tree_digest
from pipeline.lineage.lineage import read_lineage
from pipeline.models import language_model as lm
from pipeline.store.segment_reader import Segment
from pipeline.training.log import read_log
from tests.project import (
    FIRST_RUN,
    PARAMS,
    ROOT,
    STUDENT,
    Project,
    copy_of,
    executed,
    run,
    wait_for,
)


def test_the_first_run_executes_every_stage_and_reports(finished: tuple[Project, str]) -> None:
    project, output = finished
    assert executed(output) == sorted(FIRST_RUN)
    metrics = project.json("report/metrics.json")
    at_any = {"exact_match", "distinct_bigrams"}
    task = {*at_any, *(f"{name}_at_1" for name in at_any), "eos_share", "entropy", "reference_nll"}
    quality = {"forward_kl", "reverse_kl", "top1_agreement", "teacher_logp", "teacher_rouge_l", *task}
    small = metrics["students"]["small"]
    assert set(metrics["teacher"]) == task
    assert set(small["before"]) == set(small["after"]) == quality
    place = {"id", "step", "steps_not_taken", "scored_positions"}
    assert [set(round_) for round_ in small["rounds"]] == [quality | place] * 2
    assert small["rounds"][-1] == small["rounds"][-1] | small["after"] | {"id": "r2", "step": 4}
    assert small["rounds"][-1]["scored_positions"] == metrics["store"]["positions"]
    assert set(metrics["errors"]["small"]["r2"]) == set(metrics["changes"]["small"]) == quality
    assert set(metrics["errors"]["teacher"]) == task
    assert metrics["store"]["bytes_per_position"] > 0
    assert metrics["store"]["reused_share"] == 0
    stages = metrics["cost"]
    assert set(stages) == {"prepare", "teacher", "init", "generate", "rollout", "score", "train", "evaluate"}
    assert all(set(stage) == {"runs", "tokens", "seconds"} for stage in stages.values())
    assert (project.path / "report/table.md").read_text(encoding="utf-8") in output
    for stage in [path.stem for path in (project.path / "work/costs").glob("*.json")]:
        assert re.search(rf"^{stage}: done in \d+\.\d s", output, re.MULTILINE)
    for done in ("read .*: 2 parts", r"read data \(train\): 14 rows", "tokenise: 15 prompts", "report: 14 files"):
        assert re.search(rf"^{done} in \d+\.\d s \([\d,.]+ \w+/s\)$", output, re.MULTILINE)
    html = (project.path / "report/index.html").read_text(encoding="utf-8")
    assert re.findall('<section id="([^"]+)"', html) == [
        *["warnings", "headline", "quality", "tokens", "training", "teacher-tokens", "costs", "store", "lineage"]
    ]
    assert not list((project.path / ".scratch").glob("*/*/*"))
    printed = json.loads(project.stillroom("lineage", "work/small/r2/model", "--json"))
    assert [round_["id"] for round_ in printed["rounds"]] == ["r1", "r2"]
    assert printed["teacher"]["model"] == "models/teacher"
    assert printed["teacher"]["fingerprint"] == printed["rounds"][0]["teacher"]
    assert printed["dvc_lock"]["parameters"]["rollout"] == PARAMS["rollout"]
    assert "train@small-r2" in printed["dvc_lock"]["stages"]
    assert printed["costs"]["r2"]["score"]["positions_reused"] == 0
    assert printed["warning"] is None
    lineage = html[html.index('<section id="lineage">') :]
    known = [printed["teacher"]["fingerprint"], printed["rounds"][1]["tokenizer"], printed["rounds"][1]["prompts"]]
    known += [scored["segment"] for round_ in printed["rounds"] for scored in round_["scored"]]
    assert all(segment[:12] in lineage for segment in known)
    assert f"<td>{printed['rounds'][1]['tokens']:,}</td>" in lineage
    assert (project.path / "work/small/r1/model/README.md").read_text(encoding="utf-8").startswith("---\n")
    assert "exact_match" in project.stillroom("lineage", "work/small/r2/model", "--card")


@pytest.mark.slow
def test_an_encoder_decoder_runs_through_the_same_stages(
    fresh: Project, make_t5_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """A random T5, its student cut to one layer each, and nothing else in the parameters but a prompt without chat."""
    project = copy_of(fresh, tmp_path)
    make_t5_dir(project.path / "models" / "t5", layers=2, seed=1)
    project.change("teacher", "model", to="models/t5")
    project.change("student", "small", "layers", to={"encoder": [1], "decoder": [0]})
    project.change("task", "template", "chat", to=False)
    project.change("schedule", "total_steps", to=2)
    assert "train@small-r1" in executed(project.repro())
    config = project.json("work/small/r1/model/config.json")
    assert (config["num_layers"], config["num_decoder_layers"]) == (1, 1)
    log = read_log(project.path / "logs/small/r1/train.csv")
    assert [row["loss"] > 0 for row in log] == [True, True]
    for source in ("corpus", "small/r1"):
        rollouts = read_rollouts(project.path / "work" / source / "rollouts.parquet")
        segment = Segment.open(project.path / "work" / source / "segment")
        assert len(rollouts) == len(segment)
        assert all(rollout.prompt_ids[-1] == 1 and 1 not in rollout.completion_ids[:-1] for rollout in rollouts)
    small = project.json("report/metrics.json")["students"]["small"]
    assert 0 < small["after"]["forward_kl"] != small["before"]["forward_kl"]


def test_dvc_shows_a_row_of_few_metrics_per_model(project: Project) -> None:
    head, _, *rows = run(project, "dvc", "metrics", "show", "--md").strip().splitlines()
    names = ("costs", "small-error", "small", "teacher-error", "teacher")
    assert [row.split()[1] for row in rows] == [f"report/summary/{name}.json" for name in names]
    assert head.count("|") <= 9


def test_every_model_and_optimizer_stands_once_on_the_disk(finished: tuple[Project, str]) -> None:
    """Every large output is one file on the disk, linked from work/ and from DVC's cache."""
    project, _ = finished
    large = [path for name in ("*.safetensors", "*.pt") for path in (project.path / "work").rglob(name)]
    assert {path.parents[2].name for path in large} >= {"small", "work"}
    assert [path for path in large if path.stat().st_nlink == 1] == []


def test_a_second_run_does_nothing(project: Project) -> None:
    assert executed(project.repro()) == []


@pytest.mark.slow
def test_another_divergence_trains_again_and_asks_the_teacher_only_about_new_rollouts(project: Project) -> None:
    project.change("objective", "divergence", "name", to="reverse_kl")
    assert executed(project.repro()) == sorted(
        [
            *["plan", "train@small-r1", "rollout@small-r2", "score@small-r2", "train@small-r2"],
            *["evaluate@small-r1", "evaluate@small-r2", "report"],
        ]
    )
    project.change("objective", "divergence", "name", to="forward_kl")
    assert executed(project.repro()) == []  # all of it comes out of the run cache


def test_appended_rounds_run_alone(project: Project) -> None:
    before = file_digest(project.path / STUDENT)
    project.change("schedule", "total_steps", to=6)
    new = ["rollout@small-r3", "score@small-r3", "train@small-r3", "evaluate@small-r3"]
    assert executed(project.repro()) == sorted(["plan", *new, "report"])
    assert file_digest(project.path / STUDENT) == before
    assert [row["id"] for row in project.json("report/metrics.json")["students"]["small"]["rounds"]] == [
        *["r1", "r2", "r3"]
    ]


@pytest.mark.slow
def test_replayed_rollouts_cost_the_teacher_nothing(project: Project) -> None:
    project.change("replay", to={"rounds": 1, "weight": 0.75, "max_age": None, "adaptive": False})
    ran = executed(project.repro())
    assert "train@small-r1" in ran  # it has another replay, if nothing to replay yet
    rollouts = read_rollouts(project.path / "work/small/r2/rollouts.parquet")
    assert sorted({rollout.source for rollout in rollouts}) == ["replay", "student"]
    assert {rollout.step for rollout in rollouts if rollout.source != "student"} == {0}
    cost = project.json("work/costs/small-r2-score.json")
    replayed = sum(len(rollout.completion_ids) for rollout in rollouts if rollout.source != "student")
    assert cost["positions_reused"] >= replayed > 0
    sampled = sum(len(rollout.completion_ids) for rollout in rollouts if rollout.source == "student")
    assert cost["positions"] == replayed + sampled


@pytest.mark.slow
def test_a_student_that_is_an_adapter_leaves_adapters_and_one_base(project: Project) -> None:
    lora = {
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.1,
        "use_rslora": False,
        "target_modules": "all-linear",
        "base_dtype": "float32",
    }
    project.change("student", "low", to=PARAMS["student"]["small"] | {"layers": None, "lora": lora})
    project.change("students", to=["low"])
    stages = [f"{stage}@low-{round_id}" for round_id in ("r1", "r2") for stage in ("rollout", "score", "train")]
    stages += ["plan", "init@low", *(f"evaluate@low-{name}" for name in ("init", "r1", "r2")), "report"]
    assert executed(project.repro()) == sorted(stages)
    work = project.path / "work"
    assert file_digest(work / "low/base/model.safetensors") == file_digest(work / "teacher/model.safetensors")
    assert [path.name for path in (work / "small/base").iterdir()] == ["README.md"]
    weights = [file_digest(work / "low" / name / "model/adapter_model.safetensors") for name in ("init", "r1", "r2")]
    assert len(set(weights)) == 3
    assert not (work / "low/r2/model/model.safetensors").exists()
    low = project.json("report/metrics.json")["students"]["low"]
    assert low["before"]["forward_kl"] == pytest.approx(0, abs=1e-6)  # nothing is adapted yet
    assert low["best"] == min(
        ({"round": round_["id"], "forward_kl": round_["forward_kl"]} for round_ in low["rounds"]),
        key=lambda best: best["forward_kl"],
    )

    for name in ("low", "small"):
        shutil.rmtree(work / name)
    subprocess.run(["dvc", "checkout"], cwd=project.path, env=project.env, check=True, capture_output=True)
    assert executed(project.repro()) == []
    moved = copy_of(project, project.path.parent / "elsewhere")
    shutil.rmtree(project.path)
    assert lm.load_model(moved.path / "work/low/r2/model").config.num_hidden_layers == 4


def test_training_that_was_killed_ends_with_the_same_student(project: Project) -> None:
    steps = 30
    project.change("schedule", to=PARAMS["schedule"] | {"total_steps": steps, "refresh_every": steps})
    train = "train@small-r1"

    def under_way() -> bool:
        return any(project.path.glob(".scratch/*/*/step-*"))

    project.kill_stage("stages.train", under_way, train)
    (checkpoint,) = project.path.glob(".scratch/*/*/step-????????")
    done = int(checkpoint.name.removeprefix("step-"))
    assert 0 < done < steps
    resumed = project.repro(train)
    outputs = [project.path / name for name in ("work/small/r1/model", "work/small/r1/optimizer.pt")]
    log = project.path / "logs/small/r1/train.csv"
    rows, digests = read_log(log), [tree_digest(output) for output in outputs]
    (trained,) = re.findall(r"^train small r1: ([\d,]+) tokens", resumed, re.MULTILINE)
    assert int(trained.replace(",", "")) == sum(row["read_tokens"] for row in rows[done:])
    project.repro("--force", "--single-item", "--no-run-cache", train)
    assert [tree_digest(output) for output in outputs] == digests
    assert read_log(log) == rows


def test_a_mistake_in_a_parameter_is_told_by_the_first_stage(project: Project) -> None:
    project.change("optimizer", "learning_rate", to="fast")
    process = project.start()
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert executed(output) == ["plan"]
    assert "error: optimizer.learning_rate: expected float, got 'fast' (str); fix params.yaml\n" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_kills_of_scoring_and_of_dvc_leave_no_orphan_and_the_same_student(
    fresh: Project, finished: tuple[Project, str], tmp_path: Path
) -> None:
    project = copy_of(fresh, tmp_path)

    def published() -> bool:
        return any((project.path / "store" / "segments").glob("[!.]*"))

    project.kill_stage("stages.score", published)
    first = len(list((project.path / "store" / "segments").glob("[!.]*")))
    assert not (project.path / "work/corpus/segment").exists()

    dvc = project.start()
    wait_for(lambda: project.stage("stages.train") is not None)
    dvc.kill()
    dvc.communicate(timeout=100)
    wait_for(lambda: not project.processes(), seconds=10)
    assert not (project.path / "work/small/r1/model").exists()
    # The killed stage, which DVC chooses, found in the store what it had published.
    entries = [project.json(f"work/costs/{name}-score.json") for name in ("corpus", "small-r1")]
    assert 0 < sum(entry["positions_reused"] for entry in entries) < sum(entry["positions"] for entry in entries)
    assert first < len(list((project.path / "store" / "segments").glob("[!.]*")))

    if not (project.path / "dvc.lock").read_text(encoding="utf-8"):
        (project.path / "dvc.lock").unlink()  # what `make repro` does
    project.repro()
    for name in (STUDENT, "work/small/r2/optimizer.pt", "work/corpus/segment", "work/small/r2/segment"):
        assert tree_digest(project.path / name) == tree_digest(finished[0].path / name), name


@pytest.mark.slow
def test_the_store_alone_brings_every_score_back(project: Project) -> None:
    segments = ["work/corpus/segment", "work/small/r1/segment", "work/small/r2/segment"]
    before = [tree_digest(project.path / segment) for segment in segments]
    for name in ("work", ".dvc/cache", "logs", "report"):
        shutil.rmtree(project.path / name)
    (project.path / "dvc.lock").unlink()
    assert executed(project.repro()) == sorted(FIRST_RUN)
    assert [tree_digest(project.path / segment) for segment in segments] == before
    metrics = project.json("report/metrics.json")
    assert metrics["store"]["reused_share"] == 1
    assert metrics["cost"]["score"]["tokens"] == 0


@pytest.mark.slow
def test_an_empty_lock_file_costs_no_work_once_it_is_gone(project: Project) -> None:
    (project.path / "dvc.lock").write_text("", encoding="utf-8")
    (project.path / "dvc.lock").unlink()
    assert executed(project.repro()) == []


@pytest.mark.slow
def test_a_student_with_another_tokenizer_is_refused(
    project: Project, make_model_dir: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    stranger = make_model_dir(project.path / "models" / "stranger")
    make_tokenizer(reverse=True).save_pretrained(stranger)
    project.change("student", "small", "model", to="models/stranger")
    project.change("student", "small", "layers", to=None)
    process = project.start()
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    expected = "error: models/stranger: expected the tokenizer of the teacher work/teacher, got 256 ids that mean "
    assert expected in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_student_of_another_teacher_is_noticed(project: Project, make_model_dir: Callable[..., Path]) -> None:
    shutil.copytree(project.path / "work/small/r2/model", project.path / "models/student")
    make_model_dir(project.path / "models/successor", layers=4, seed=7)
    project.change("teacher", "model", to="models/successor")
    project.change(
        "student",
        "small",
        to={"model": "models/student", "revision": None, "layers": None, "config": None, "lora": None},
    )
    output = project.repro("train@small-r1")
    (warning,) = re.findall(r"^warning: (student small: .*)$", output, re.MULTILINE)
    assert re.match(
        r"student small: first tuned on data of teacher models/teacher \(\w+\), now models/successor", warning
    )
    assert f"warning: {warning}" in project.stillroom("lineage", "work/small/r1/model")


@pytest.mark.slow
def test_scores_of_two_teachers_are_refused(
    project: Project, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """As when a segment is brought in from a project with another teacher."""
    (project.path / "work/teacher").rename(tmp_path / "teacher")
    make_model_dir(project.path / "work/teacher", layers=4, seed=5)
    rollouts, out = "work/corpus/rollouts.parquet", "work/corpus/segment"
    run = {"cwd": project.path, "env": project.env, "capture_output": True, "text": True}
    scored = ["-m", "stages.score", "--rollouts", rollouts, "--out", out, "--name", "corpus-score"]
    shutil.rmtree(project.path / out)
    assert subprocess.run([sys.executable, *scored], check=False, **run).returncode == 0
    train = ["--student", "small", "--round", "r1", "--prev", "init", "--first-step", "0", "--steps", "2"]
    train += ["--gate", "work/plan.json"]
    refused = subprocess.run([sys.executable, "-m", "stages.train", *train], check=False, **run)
    assert refused.returncode == 1
    (line,) = refused.stderr.strip().splitlines()
    assert re.match(r"error: work/small/r1/segment/manifest.json: expected scorer \w+, got scorer \w+;", line)


@pytest.mark.slow
def test_the_default_job_reaches_its_first_scores_with_the_real_teacher(fresh: Project, tmp_path: Path) -> None:
    """The committed parameters, but for the number of rollouts."""
    project = copy_of(fresh, tmp_path)
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    project.write_params(params)
    project.change("rollout", "prompts", to=2)
    output = project.repro("score@small-r1")
    stages = ["plan", "teacher", "prepare", "init@small", "rollout@small-r1", "score@small-r1"]
    assert executed(output) == sorted(stages)
    lines = re.findall(r"^(?:warning: )?(\w+): ([\d,]+) of ", output, re.MULTILINE)
    kept = {split: int(count.replace(",", "")) for split, count in lines}
    assert kept["train"] >= params["rollout"]["prompts"] * 4
    assert kept["heldout"] >= params["evaluation"]["prompts"]
    config = project.json("work/small/init/model/config.json")
    assert config["num_hidden_layers"] == len(params["student"]["small"]["layers"])
    rollouts = read_rollouts(project.path / "work/small/r1/rollouts.parquet")
    segment = Segment.open(project.path / "work/small/r1/segment")
    segment.verify()
    assert len(segment) == len(rollouts) == 2 * params["rollout"]["samples_per_prompt"]
    assert segment.differs_from(rollouts) is None
    scores = segment.read(0, len(segment))
    mass = sum(float(np.exp(sequence.top.logp).sum() + sequence.stats.tail_NH[:, 0].sum()) for sequence in scores)
    positions = sum(len(sequence.top.counts) for sequence in scores)
    assert mass / positions == pytest.approx(1, abs=0.02)  # one-byte probabilities
    assert (
        sum(int(sequence.student.counts.sum()) for sequence in scores) > 0
    )  # a pruned student writes what the teacher would not


@pytest.mark.slow
def test_sequence_level_kd_of_tuned_models_asks_for_no_rollout(fresh: Project, tmp_path: Path) -> None:
    """Cross-entropy on the generations of a tuned teacher, by parameters alone; nobody writes or scores in a round."""
    project = copy_of(fresh, tmp_path)
    tuning = {"references": None, "steps": 2, "batch_size": 2, "micro_batch_size": 2, "optimizer": PARAMS["optimizer"]}
    project.change("sft", to={"teacher": tuning, "small": tuning})
    project.change("corpus", to={"references": 0, "generations": 3, "samples_per_prompt": 2})
    project.change("rollout", "prompts", to=0)
    project.change("batches", "student_fraction", to=0.0)
    project.change("objective", "cross_entropy", to=1.0)
    project.change("schedule", "total_steps", to=2)
    output = project.repro()
    later = {stage for stage in FIRST_RUN if stage.endswith("-r2")}
    assert executed(output) == sorted({*FIRST_RUN, "sft@teacher", "sft@small"} - later)
    for name in ("small-r1-rollout", "small-r1-score"):
        assert project.json(f"work/costs/{name}.json")["tokens"] == 0
    (row, *_) = read_log(project.path / "logs/small/r1/train.csv")
    assert row["own_share"] == 0
    assert "sft" in project.json("report/metrics.json")["cost"]
    lineage = read_lineage(project.path / "work/small/r1/model")
    assert lineage is not None
    assert [tuning.model for tuning in lineage.tunings] == ["teacher", "small"]
    assert lineage.teacher.fingerprint == lineage.rounds[0].teacher
    assert executed(project.repro()) == []
