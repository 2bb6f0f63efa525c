"""Each of the teacher's scores is paid for once: by another student, sweep, checkout, clone, or project.

What the teacher reads is told by work/costs; only stages that ran in the command under test count, because the run
cache brings back an earlier run's costs with its scores.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.project as end_to_end
from pipeline.core.hashing import tree_digest
from pipeline.runtime.yaml_files import read_yaml
from tests.project import STUDENT, Project, committed, copy_of, executed, run

pytestmark = pytest.mark.slow
SMALL = ("work/small/r2/model", "work/small/r2/segment", "work/corpus/segment")


def teacher_tokens(project: Project, output: str) -> dict[str, int]:
    """Tokens that the teacher read in each score stage that ran."""
    tokens = {}
    for stage in executed(output):
        name, _, place = stage.partition("@")
        if name == "score":
            tokens[stage] = project.json(f"work/costs/{place}-score.json")["tokens"]
    return tokens


def cloned(project: Project, path: Path) -> Project:
    """A clone with a cache and a store of its own."""
    run(project, "git", "clone", "-q", str(project.path), str(path))
    clone = Project(path)
    clone.env |= {name: value for name, value in project.env.items() if name.startswith(("GIT_", "AWS_"))}
    return clone


def test_another_student_asks_only_about_its_own_rollouts(project: Project) -> None:
    before = [tree_digest(project.path / name) for name in SMALL]
    document = read_yaml(project.path / "params.yaml")
    document["students"] = ["small", "medium"]
    document["student"]["medium"] = document["student"]["small"] | {"layers": [0, 1, 3]}
    project.write_params(document)
    output = project.repro()
    stages = [f"{stage}@medium-{round_id}" for round_id in ("r1", "r2") for stage in ("rollout", "score", "train")]
    stages += [f"evaluate@medium-{name}" for name in ("init", "r1", "r2")]
    assert executed(output) == sorted(["plan", "init@medium", *stages, "report"])
    asked = teacher_tokens(project, output)
    assert set(asked) == {"score@medium-r1", "score@medium-r2"}
    assert all(asked.values())
    assert [tree_digest(project.path / name) for name in SMALL] == before
    assert set(project.json("report/metrics.json")["students"]) == {"small", "medium"}


def test_two_cold_clones_make_the_same_student(fresh: Project, finished: tuple[Project, str], tmp_path: Path) -> None:
    """On one machine; without a store, a cache or a file in common."""
    again = copy_of(fresh, tmp_path)
    again.repro("train@small-r2", "evaluate@small-r2")
    for name in (*SMALL, "work/small/r2/optimizer.pt", "logs/small/r2/train.csv", "work/evaluations/small-r2.json"):
        assert tree_digest(again.path / name) == tree_digest(finished[0].path / name), name


def test_another_checkout_with_the_same_store_asks_nothing(
    fresh: Project, finished: tuple[Project, str], tmp_path: Path
) -> None:
    other = copy_of(fresh, tmp_path)
    other.env["STILLROOM_STORE"] = finished[0].env["STILLROOM_STORE"]
    output = other.repro("score@corpus", "score@small-r1")
    assert teacher_tokens(other, output) == {"score@corpus": 0, "score@small-r1": 0}
    for name in ("work/corpus/segment", "work/small/r1/segment"):
        assert tree_digest(other.path / name) == tree_digest(finished[0].path / name)


def test_an_experiment_shares_the_store(project: Project) -> None:
    committed(project)
    output = run(project, "dvc", "exp", "run", "-S", "objective.divergence.name=jsd", "train@small-r2")
    asked = teacher_tokens(project, output)
    assert set(asked) == {"score@small-r2"}  # the first round's rollouts are those of every divergence
    assert asked["score@small-r2"] > 0
    output = run(project, "dvc", "exp", "run", "--force", "--single-item", "score@small-r2")
    assert teacher_tokens(project, output) == {"score@small-r2": 0}


def test_a_queue_of_schedules_shares_the_store(project: Project) -> None:
    """The documented command: rounds.yaml follows refresh_every before each experiment is queued."""
    committed(project)
    for every in ("1", "4"):
        project.stillroom("plan", "--refresh-every", every)
        run(project, "dvc", "exp", "run", "--queue", "--name", f"every-{every}")
    run(project, "git", "checkout", "params.yaml", "rounds.yaml")
    output = run(project, "dvc", "exp", "run", "--run-all")
    shown = run(project, "dvc", "exp", "show", "--csv", "--no-pager")
    assert {"every-1", "every-4"} <= set(re.findall(r"every-\d", shown))
    assert "ERROR" not in output
    assert "score@corpus" not in executed(output)
    assert "score@small-r1" not in executed(output)  # the same first rollouts, whatever the schedule
    assert "score@small-r4" in executed(output)


def test_a_fresh_clone_pulls_and_imports_the_scores(project: Project, tmp_path: Path) -> None:
    committed(project)
    run(project, "dvc", "remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    run(project, "git", "commit", "-q", "-a", "-m", "two")
    run(project, "dvc", "push")
    clone = cloned(project, tmp_path / "clone")
    _pull_and_take(clone)
    assert tree_digest(clone.path / "work/small/r2/model") == tree_digest(project.path / "work/small/r2/model")


def _pull_and_take(clone: Project) -> None:
    """What a clone does first, and that it then asks nothing, even where its scores are made again."""
    run(clone, "dvc", "pull", "--allow-missing")
    clone.stillroom("store", "import", "work")
    output = clone.repro()
    assert set(executed(output)) <= {"report"}  # its outputs are not cached
    again = clone.repro("--force", "--single-item", "--no-run-cache", "score@corpus")
    assert teacher_tokens(clone, again) == {"score@corpus": 0}


@pytest.mark.parametrize("command", ["import", "get"])
def test_another_dvc_project_takes_the_scores(project: Project, tmp_path: Path, command: str) -> None:
    """Another project with the same teacher and prompts: it asks about nothing that the first one has asked."""
    committed(project)
    other = Project(tmp_path / "other")
    other.path.mkdir()
    other.env |= {name: value for name, value in project.env.items() if name.startswith("GIT_")}
    run(other, "git", "init", "-q")
    run(other, "dvc", "init", "-q")
    run(other, "dvc", command, str(project.path), "work/corpus/segment", "-o", "scores")
    assert (other.path / "scores.dvc").exists() == (command == "import")
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "store", "import", "scores"],
        cwd=other.path,
        env=other.env | {"PYTHONPATH": str(project.path)},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(project.path / "store")
    shutil.move(other.path / "store", project.path / "store")
    assert teacher_tokens(project, project.repro("--force", "--single-item", "score@corpus")) == {"score@corpus": 0}


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """An empty bucket of a real S3 API on this machine, and the environment that reaches it."""
    for module in ("moto", "dvc_s3"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'moto[server]' dvc-s3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, env=os.environ | env, stderr=subprocess.DEVNULL) as server:
        try:
            yield env | {"ENDPOINT": f"http://127.0.0.1:{port}"}
        finally:
            server.terminate()


def test_a_fresh_clone_pulls_from_s3(project: Project, bucket: dict[str, Any], tmp_path: Path) -> None:
    endpoint = bucket.pop("ENDPOINT")
    project.env |= bucket
    make = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket='stillroom')"
    end_to_end.wait_for(lambda: _answers(endpoint), seconds=60)
    run(project, sys.executable, "-c", make, endpoint)
    committed(project)
    run(project, "dvc", "remote", "add", "--default", "shelf", "s3://stillroom/shelf")
    run(project, "dvc", "remote", "modify", "shelf", "endpointurl", endpoint)
    run(project, "git", "commit", "-q", "-a", "-m", "two")
    run(project, "dvc", "push")
    clone = cloned(project, tmp_path / "clone")
    _pull_and_take(clone)
    assert (clone.path / STUDENT).is_file()


def _answers(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0
