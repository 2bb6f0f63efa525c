"""pipeline.report.run_report: the files of a report, from the results of a small synthetic run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.run_report import read_run, write_report
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import write_json
from pipeline.runtime.layout import Layout, cost_names

ROUNDS: dict[str, Any] = {
    "rounds": {
        "small-r1": {"student": "small", "round": "r1", "prev": "init", "first_step": 0, "steps": 2},
        "small-r2": {"student": "small", "round": "r2", "prev": "r1", "first_step": 2, "steps": 1},
    },
    "starts": {"small": "init"},
    "tuned": {},
}
SCORED = {"positions": 10, "positions_reused": 5, "payload_bytes": 300}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return the layout of a project whose stages have run, with a log and a cost of an earlier schedule."""
    layout = Layout(tmp_path)
    write_json(layout.rounds, ROUNDS)  # JSON is YAML
    objective = {"divergence": {"name": "jsd"}, "cross_entropy": 0.0, "alpha": 1.0}
    params = {"task": {"name": "<b>"}, "schedule": {"max_staleness": 0.5}, "objective": objective}
    write_json(layout.params, params)
    write_json(layout.evaluation("teacher"), {"headline": "bleu", "metrics": {"bleu": 30.0}})
    for index, checkpoint in enumerate(("init", "r1", "r2")):
        metrics = {"forward_kl": 2.0 - index, "reverse_kl": 1.0, "bleu": 10.0 * index}
        write_json(layout.evaluation(f"small-{checkpoint}"), {"headline": "bleu", "metrics": metrics})
    for name in [*cost_names(ROUNDS), "small-r3-train"]:
        write_json(layout.cost(name), {"tokens": 10, "seconds": 2.0} | (SCORED if name.endswith("-score") else {}))
    for round_id, steps in (("r1", (1, 2)), ("r2", (3,)), ("r3", (4,))):
        log = layout.round("small", round_id).log
        log.parent.mkdir(parents=True)
        lines = [f"small,{round_id},{step},{1 / step}" for step in steps]
        log.write_text("\n".join(["student,round,step,loss", *lines, ""]), encoding="utf-8")
    return layout


def test_a_report_has_all_its_files(layout: Layout) -> None:
    write_report(layout, read_run(layout, ["small"]))
    files = {path.relative_to(layout.report).as_posix() for path in layout.report.rglob("*") if path.is_file()}
    plots = {f"plots/{name}.csv" for name in ("loss", "forward_kl", "reverse_kl", "task_metric")}
    figures = {f"summary/{name}.json" for name in ("teacher", "small", "costs")}
    assert files == plots | figures | {"index.html", "metrics.json", "table.md", "picture.svg", "dvc_plots.html"}
    assert (layout.report / "plots/loss.csv").read_text(encoding="utf-8").splitlines() == [
        "step,small",
        "1,1.0",
        "2,0.5",
        f"3,{1 / 3}",
    ]
    assert (layout.report / "plots/task_metric.csv").read_text(encoding="utf-8").splitlines() == [
        "step,small",
        "0,0.0",
        "2,10.0",
        "3,20.0",
    ]
    assert "<title>stillroom: &lt;b&gt;</title>" in (layout.report / "index.html").read_text(encoding="utf-8")


def test_costs_of_earlier_schedules_are_left_out(layout: Layout) -> None:
    run = read_run(layout, ["small"])
    assert set(run.costs) == set(cost_names(ROUNDS))
    assert run.metrics["cost"]["train"] == {"runs": 2, "tokens": 20, "seconds": 4.0}
    assert run.metrics["store"]["reused_share"] == 0.5
    assert run.last_steps == {"r1": 2, "r2": 3}
    assert json.loads(json.dumps(run.metrics)) == run.metrics


def test_a_missing_evaluation_is_an_error(layout: Layout) -> None:
    layout.evaluation("small-r2").unlink()
    with pytest.raises(DataError, match=r"small-r2\.json: expected a file, got nothing"):
        read_run(layout, ["small"])
