"""Test the benchmark of the loss at a tiny size."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.loss.loss import _LOSSES, _installed, _measured, _ours, _parsed, _teacher_rows, main
from bench.subprocess_run import run_in_subprocess

SIZES = ["--shape", "24x8x120", "--dtype", "float32", "--repeats", "2"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is Linux's")
def test_rows_name_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "loss.json"
    in_process = lambda _, name, shape, dtype, repeats: _measured(name, _parsed(shape), dtype, repeats)  # noqa: E731
    monkeypatch.setattr("bench.loss.loss.run_in_subprocess", in_process)
    done = CliRunner().invoke(main, [*SIZES, "--json", str(out)])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == [name for name in _LOSSES if _installed(name)]
    assert rows[0]["name"] == "the head's three matrix products"
    for ratio in ("seconds", "of_matmuls", "seconds_of_processor", "of_matmuls_of_processor"):
        assert all(row[ratio] > 0 for row in rows)
    assert all(row["extra_mb"] >= 0 for row in rows)
    assert {(row["tokens"], row["width"], row["vocab"], row["dtype"]) for row in rows} == {(24, 8, 120, "float32")}


def test_a_row_has_a_process_of_its_own() -> None:
    row = run_in_subprocess(
        "bench.loss.loss", "stillroom, chunks of 128", shape="24x8x120", dtype="bfloat16", repeats=2
    )
    assert row["seconds"] > 0


def test_the_loss_that_is_timed_has_both_gradients_and_ignores_the_chunk() -> None:
    torch.manual_seed(0)
    rows, weight_VD = _teacher_rows(24, 120), torch.randn(120, 8).requires_grad_()
    results = []
    for chunk in (5, 100):
        hidden_ND = torch.ones(24, 8).requires_grad_()
        loss = _ours(chunk, hidden_ND, weight_VD, rows)
        results.append((loss, *torch.autograd.grad(loss, (hidden_ND, weight_VD))))
    for first, second in zip(*results, strict=True):
        assert first.abs().max() > 0
        assert torch.allclose(first, second, rtol=1e-4, atol=1e-4)
