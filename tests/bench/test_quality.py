"""bench.end_to_end.quality at a size that takes no time."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from bench.end_to_end.job import initialise_student, job, run_stage_here, run_stage_in_subprocess
from bench.end_to_end.quality import against_trl, averaged, changed, main, measured, parse_configuration
from bench.end_to_end.setting import Setting
from bench.end_to_end.trl_trainers import TRAINERS, has_trl
from bench.subprocess_run import peak_bytes
from pipeline.core.files import read_prompts
from pipeline.runtime.layout import Layout

TINY = Setting(
    layers="0",
    divergence="forward_kl",
    steps=1,
    stretch=2,
    measure=1,
    batch=4,
    tokens=5,
    heldout=3,
    completions=2,
    learning_rate=1e-2,
    schedule="constant_with_warmup",
    ema_decay=0.5,
    entries="larger",
    recompute=False,
)


def test_a_row_has_the_divergence_of_the_student_and_its_cost(small_job: Path) -> None:
    first, last = measured("1x1x2", TINY, 0, run=run_stage_here)
    assert (first["step"], last["step"]) == (1, 2)
    assert 0 < first["seconds"] < last["seconds"]
    assert 0 < first["teacher_tokens"] < last["teacher_tokens"]
    assert first["forward_kl"] > 0
    assert 0 < first["forward_kl_error"] < 1
    assert 0 < first["reverse_kl_error"] < 1
    assert first["forward_kl"] != last["forward_kl"]
    assert 0 < first["seconds_of_processor"] < last["seconds_of_processor"]
    assert last["peak_mb"] > 50
    assert Path.cwd() == small_job


def test_a_stage_in_a_subprocess_has_its_own_peak_of_memory(small_job: Path) -> None:
    changes = changed(TINY, 0)
    with job(small_job / "job", changes):
        spent = initialise_student("measured", run_stage_in_subprocess)
        assert Path("work/measured/init/model/model.safetensors").is_file()
    assert spent.stage == "init"
    assert spent.seconds_of_processor > 0
    assert 50 < spent.peak_mb != peak_bytes() / 1e6


@pytest.mark.skipif(not has_trl(), reason="needs trl: pip install --no-deps trl==1.16.0")
@pytest.mark.filterwarnings("default")  # its own, not ours
@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_of_trl_trains_on_its_own_rollouts(small_job: Path, name: str) -> None:
    constant = replace(TINY, steps=8, measure=4, learning_rate=3e-3)
    first, last = measured(name, constant, 0, run=run_stage_here)
    assert (first["step"], last["step"]) == (4, 8)
    assert 0 < first["seconds"] < last["seconds"]
    assert 0 < first["teacher_tokens"] < last["teacher_tokens"]
    assert last["forward_kl"] < first["forward_kl"]
    for change in ({"schedule": "linear", "ema_decay": 0.9}, {"divergence": "reverse_kl"}):
        changed_row, *_ = measured(name, replace(constant, steps=4, **change), 0, run=run_stage_here)
        assert changed_row["forward_kl"] != first["forward_kl"]


def test_a_mean_of_weights_needs_its_decay() -> None:
    done = CliRunner().invoke(main, ["--trainer", "DistillationTrainer with a mean of weights"])
    assert "expected --ema-decay" in done.output


def test_more_held_out_prompts_than_the_job_has_are_refused(small_job: Path) -> None:
    available = len(read_prompts(Layout(small_job).prompts, "heldout"))
    with pytest.raises(click.UsageError, match=f"at most the {available} of .*, got {available + 1}"):
        next(measured("1x1x2", replace(TINY, heldout=available + 1), 0))


def test_linear_goes_down_to_the_last_step_of_ours() -> None:
    optimizer = changed(replace(TINY, schedule="linear", ema_decay=None), 0)["optimizer"]
    assert (optimizer["lr_scheduler_type"], optimizer["decay_steps"]) == ("linear", 3)  # 2 steps, at 2/3 and 1/3
    for constant in (replace(TINY, schedule="linear"), replace(TINY, ema_decay=None)):
        assert changed(constant, 0)["optimizer"]["lr_scheduler_type"] == "constant_with_warmup"


def test_larger_entries_are_those_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    (documented,) = (text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "max_entries" in text)
    larger, as_set = (changed(replace(TINY, entries=entries), 0) for entries in ("larger", "as-set"))
    scale = larger["objective"].pop("tail_samples_scale")
    assert YAML(typ="safe").load(documented) == {
        "scoring": larger["scoring"],
        "objective": {"tail_samples_scale": scale},
    }
    assert as_set["scoring"] == {"truncation": {}}
    assert as_set["objective"] == larger["objective"]


@pytest.mark.parametrize("configuration", ["3x1x2", "2x0x2", "2x1", "2x1x", "x", "1x4x2", "1x1x3"])
def test_configurations_that_do_not_fit_are_refused(configuration: str) -> None:
    with pytest.raises(click.UsageError, match="--configuration"):
        parse_configuration(configuration, TINY)


def test_each_row_and_seed_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> object:
        if commands:  # a benchmark that is stopped leaves the rows it had
            assert len(json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["runs"]) == len(commands)
        commands.append(command)
        configuration, seed = command[4], int(command[6])
        row = {
            "configuration": configuration,
            "step": 1,
            "seed": seed,
            "forward_kl": 1.0 + seed,
            "forward_kl_error": 0.1,
            "reverse_kl": 2,
            "reverse_kl_error": 0.1,
        }
        row |= {"seconds": 2.0, "seconds_of_processor": 1.0, "teacher_tokens": 4, "peak_mb": 9.0}
        return SimpleNamespace(stdout="train: done\n" + json.dumps([row]))

    monkeypatch.setattr("bench.subprocess_run.subprocess.run", run)
    monkeypatch.setattr("bench.end_to_end.quality.has_trl", lambda: False)
    words = [
        "--steps",
        "1",
        "--measure",
        "1",
        "--configuration",
        "1x1x2",
        "--configuration",
        "1x2x2",
        "--seeds",
        "2",
        "--json",
        "rows.json",
    ]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    names = [f"refresh every 1, passes {passes}, 2 per prompt: step 1" for passes in (1, 2)]
    assert [row["name"] for row in rows] == names
    assert (rows[0]["forward_kl"], rows[0]["forward_kl_range"], rows[0]["seeds"]) == (1.5, 1.0, 2)
    assert rows[0]["forward_kl_error"] == pytest.approx(0.1 / 2**0.5)
    assert [(command[4], command[6]) for command in commands] == [
        (configuration, seed) for configuration in ("1x1x2", "1x2x2") for seed in "01"
    ]
    assert "trl is not installed: no row for it" in done.output


def test_rows_are_compared_with_trls_last_measurement() -> None:
    def row(configuration: str, step: int, seconds: float, kl: float) -> dict[str, Any]:
        fields = {
            "configuration": configuration,
            "step": step,
            "seed": 0,
            "seconds": seconds,
            "seconds_of_processor": seconds / 2,
            "teacher_tokens": int(seconds),
            "peak_mb": seconds,
        }
        return fields | {"forward_kl": kl, "forward_kl_error": 0.1, "reverse_kl": 2 * kl, "reverse_kl_error": 0.1}

    trl = TRAINERS[0]
    runs = [row(trl, 4, 50, 1.5), row(trl, 8, 100, 1.2), row("4x1x2", 4, 20, 1.3), row("4x1x2", 8, 40, 1.1)]
    rows = averaged([*runs, row("8x2x2", 8, 30, 1.4)])
    near, far = against_trl(rows, "forward_kl")
    assert (near["reached"], near["step"], near["of_trl_seconds"], near["of_trl_peak"]) == (True, 8, 0.4, 0.4)
    assert (far["reached"], far["of_trl_seconds"], far["of_trl_peak"]) == (False, None, 0.3)
    assert [entry["reverse_kl"] for entry in against_trl(rows, "reverse_kl")] == [2.2, 2.8]
