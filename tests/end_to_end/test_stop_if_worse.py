"""The run warns of a student that training made worse, and evaluation.stop_if_worse ends its schedule."""

import json

import pytest

from pipeline.core.hashing import tree_digest
from pipeline.runtime.yaml_files import read_yaml
from tests.project import Project, executed

pytestmark = pytest.mark.slow


def test_a_schedule_ends_after_the_round_that_made_the_student_worse(project: Project) -> None:
    document = read_yaml(project.path / "params.yaml")
    # With three prompts chance alone makes large differences.
    rows = [{"question": f"{n} and {n}?", "answer": f"#### {2 * n}"} for n in range(50, 66)]
    (project.path / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    document["task"]["heldout"] = document["evaluation"]["prompts"] = len(rows)
    document["schedule"]["total_steps"] = 6
    document["optimizer"]["learning_rate"] = 0.1
    document["evaluation"]["stop_if_worse"] = True
    project.write_params(document)
    output = project.repro()
    assert {f"{stage}@small-{id_}" for stage in ("rollout", "train") for id_ in ("r2", "r3")} <= {*executed(output)}
    first, *later = (project.path / f"work/small/{id_}" for id_ in ("r1", "r2", "r3"))
    for folder in later:
        assert tree_digest(folder / "model") == tree_digest(first / "model")
        assert tree_digest(folder / "optimizer.pt") == tree_digest(first / "optimizer.pt")
        assert tree_digest(folder / "rollouts.parquet") == tree_digest(first / "rollouts.parquet")
        assert project.json(f"work/costs/small-{folder.name}-score.json")["tokens"] == 0
        cost = project.json(f"work/costs/small-{folder.name}-train.json")
        assert (cost["tokens"], cost["steps"], cost["steps_not_taken"]) == (0, 0, 2)

    message = "small r1 is worse than before training: forward_kl "
    *_, last = project.stillroom("table").splitlines()
    assert last.startswith(f"warning: {message}")
    assert "; lower optimizer.learning_rate (0.1, perhaps to a tenth), take fewer schedule.total_steps" in last
    assert "small r2: no step, because small r1 was worse" in (project.path / "report/table.md").read_text(
        encoding="utf-8"
    )
    assert message in (project.path / "report/index.html").read_text(encoding="utf-8")
    assert message in project.stillroom("status")
    for form in ("--card", "--json", None):
        assert message in project.stillroom("lineage", "work/small/r3/model", *([form] if form else []))
    assert executed(project.repro()) == []
