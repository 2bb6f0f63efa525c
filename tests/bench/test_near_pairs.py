"""bench.end_to_end.near_pairs at a size that takes no time: every start, and what a trial changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.end_to_end import near_pairs
from bench.end_to_end.job import run_stage
from pipeline.runtime.layout import LAYOUT, Layout
from pipeline.runtime.yaml_files import write_yaml
from tests.project import PARAMS

SIZES = {"steps": 2, "refresh": 2, "measure": 2, "batch": 2, "tuning-steps": 2}
LOW, HIGH = "learning_rate=1e-6", "learning_rate=0.1 moments=fresh"


def rows_of(folder: Path, *options: str) -> list[dict[str, Any]]:
    words = [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]
    done = CliRunner().invoke(near_pairs.main, [*words, *options, "--json", "rows.json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads((folder / "rows.json").read_text(encoding="utf-8"))["rows"]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_start_is_as_near_as_its_name_says(small_job: Path) -> None:
    run_stage("evaluate", name="teacher", model=LAYOUT.teacher)
    settings = PARAMS["task"]["settings"] | {"data": str(small_job / "data")}
    write_yaml(small_job / "other.yaml", {"task": PARAMS["task"] | {"settings": settings}}, comment="Of a test.")
    both = rows_of(small_job, "--start", "itself", "--try", LOW, "--try", HIGH)
    assert [row["step"] for row in both] == [0, 2, 0, 2]
    assert both[0]["forward_kl"] == both[2]["forward_kl"] == 0
    assert both[1]["forward_kl"] < 1e-6
    assert both[3]["forward_kl"] > 1e-2
    assert rows_of(small_job, "--start", "itself", "--try", LOW) == both[:2]  # a run that exists is not repeated
    sizes = {key.replace("-", "_"): value for key, value in SIZES.items()}
    sizes |= {"noise": 0.05, "tuning_rate": 1e-4, "other": Path("other.yaml")}
    for start in ("noise", "tuned", "smaller"):
        folder = near_pairs.make_start(start, 0, near_pairs.changes_of(LOW, 0, sizes), sizes, small_job / "runs")
        assert 0 < near_pairs.measures(Layout(folder), "init")["forward_kl"] < (1 if start == "smaller" else 0.1)


def test_a_trial_changes_parameters_and_the_size_of_the_batch() -> None:
    sizes = {"steps": 8, "refresh": 4, "batch": 8}
    changes = near_pairs.changes_of("learning_rate=1e-5 batch_size=32 objective.divergence.name=jsd", 3, sizes)
    assert changes["seed"] == 3
    assert changes["optimizer"]["learning_rate"] == 1e-5
    assert changes["batches"]["batch_size"] == 32
    assert changes["rollout"]["prompts"] == 4 * 32
    assert changes["objective"] == {"divergence": {"name": "jsd"}}
