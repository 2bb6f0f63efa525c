"""Test the benchmark of a training step at a tiny size."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench.end_to_end.trl_trainers import has_trl
from bench.loss.step import Shape, _measured, _padded_batches, _planned, main

TINY = Shape(
    width=16,
    intermediate=16,
    heads=2,
    kv_heads=1,
    layers=1,
    teacher_layers=1,
    vocab=400,
    batch=4,
    samples=2,
    prompt=8,
    completion=6,
    steps=2,
    precision="float32",
)


def test_both_steps_read_the_same_sequences(tmp_path: Path) -> None:
    planned = _planned(TINY, tmp_path)
    assert len(planned) == 3
    batches = list(_padded_batches(planned))
    for step, batch in zip(planned, batches, strict=True):
        rollouts = [pool.rollouts[row] for picks in step for pool, row in picks]
        assert int((batch.labels_BS != -100).sum()) == sum(len(rollout.completion_ids) for rollout in rollouts)
        whole = zip(batch.ids_BS, batch.mask_BS, batch.labels_BS, rollouts, strict=True)
        for ids, mask, labels, rollout in whole:
            assert ids[mask == 1].tolist() == rollout.prompt_ids + rollout.completion_ids
            assert labels[labels != -100].tolist() == rollout.completion_ids
        prompts, completions = batch.prompt_ids_BP[batch.prompt_mask_BP == 1], batch.completion_ids_BT
        assert prompts.tolist() == [token for rollout in rollouts for token in rollout.prompt_ids]
        assert completions[batch.completion_mask_BT == 1].tolist() == batch.labels_BS[batch.labels_BS != -100].tolist()
    taken = [pool.rollouts[row].rollout_id for step in planned for picks in step for pool, row in picks]
    assert len(set(taken)) == len(taken) == 12


_needs_trl = pytest.mark.skipif(not has_trl(), reason="needs trl: pip install --no-deps trl==1.16.0")


@pytest.mark.filterwarnings("default")  # TRL's
@pytest.mark.parametrize(
    "name",
    [
        "cross-entropy",
        "stillroom",
        *(pytest.param(f"TRL's {trainer}", marks=_needs_trl) for trainer in ("DistillationTrainer", "GKDTrainer")),
    ],
)
def test_a_row_takes_every_step_but_the_first(name: str) -> None:
    row = _measured(name, TINY)
    assert (row["name"], row["steps"]) == (name, 2)
    assert row["seconds"] > 0
    assert row["seconds_of_processor"] > 0
    assert row["peak_mb"] > 50


def test_rows_are_measured_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> object:
        commands.append(command)
        return SimpleNamespace(stdout="train: done\n" + json.dumps(_measured(command[4], TINY)) + "\n")

    monkeypatch.setattr("bench.subprocess_run.subprocess.run", run)
    monkeypatch.setattr("bench.loss.step.has_trl", lambda: False)
    sizes = [word for key in TINY.__slots__ for word in (f"--{key.replace('_', '-')}", str(getattr(TINY, key)))]
    done = CliRunner().invoke(main, [*sizes, "--json", str(tmp_path / "step.json")], catch_exceptions=False)
    output = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in output["rows"]] == ["cross-entropy", "stillroom"]
    assert output["rows"][0]["of_cross_entropy"] == output["rows"][0]["of_cross_entropy_of_processor"] == 1
    assert output["shape"]["vocab"] == 400
    assert [command[1:5] for command in commands] == [
        ["-m", "bench.loss.step", "--only", row["name"]] for row in output["rows"]
    ]
    assert "trl is not installed: no rows for its steps" in done.output
