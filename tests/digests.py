"""Show that a change of code alters no output: run the small end-to-end project at two commits and compare digests.

    python tests/digests.py COMMIT [COMMIT]    # two commits are compared; the exit code is 1 where they differ

Each commit is checked out into a temporary worktree, and its own pipeline is run by `dvc repro` with this environment's
packages. Digests are those of prompts, models, optimizers, rollouts, training logs, evaluations, and of the contents of
every segment and key in the store; files that hold names of parameters or of code (lineage, dvc.lock) are left out.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

FILES = (
    "work/prompts/*",
    "work/**/model/model.safetensors",
    "work/**/optimizer.pt",
    "work/**/rollouts.parquet",
    "work/**/segment/payload.zarr/**/*",
    "work/**/segment/*.parquet",
    "logs/**/train.csv",
    "store/ranks/*",
)


def main() -> None:
    if sys.argv[1] == "--here":
        print(json.dumps(digests_here(Path(sys.argv[2]))))
        return
    commits = sys.argv[1:]
    digests = [digests_at(commit) for commit in commits]
    names = sorted(set().union(*digests))
    for name in names:
        values = [of_commit.get(name, "absent") for of_commit in digests]
        print("same  " if len(set(values)) == 1 else "DIFFER", *(value[:12] for value in values), name)
    if any(of_commit != digests[0] for of_commit in digests):
        raise SystemExit(1)


def digests_at(commit: str) -> dict[str, str]:
    """Return the digests of a commit by the name of the output."""
    with tempfile.TemporaryDirectory() as folder:
        checkout, project = Path(folder, "checkout"), Path(folder, "project")
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", checkout, commit], check=True)
        try:
            command = [sys.executable, Path(__file__).resolve(), "--here", project]
            env = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, cwd=checkout, env=env, stdout=subprocess.PIPE, text=True, check=True, encoding="utf-8"
            )
            return dict(json.loads(done.stdout.splitlines()[-1]))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", checkout], check=True)


def digests_here(path: Path) -> dict[str, str]:
    """Run the small project of this directory's code at `path` and return its digests."""
    import pyarrow.parquet as pq

    conftest = importlib.import_module("tests.conftest")
    if Path("tests/project.py").exists():
        project = importlib.import_module("tests.project").make_project(path, conftest._model_dir)
    else:  # until 55754a3 the project was made by a fixture, at `mktemp()/project`
        fixture = importlib.import_module("tests.test_end_to_end").fresh
        path.mkdir()
        project = fixture.__wrapped__(SimpleNamespace(mktemp=lambda name: path), conftest._model_dir)
        path /= "project"
    print(project.repro(), file=sys.stderr)
    files = {file for pattern in FILES for file in path.glob(pattern) if file.is_file()}
    digests = {_name(file.relative_to(path)): _sha256(file.read_bytes()) for file in files}
    for file in path.glob("work/evaluations/**/*.json"):
        digests[_name(file.relative_to(path))] = _sha256(
            json.dumps(json.loads(file.read_text(encoding="utf-8"))["metrics"]).encode()
        )
    keys = [key for index in path.glob("store/segments/*/index.parquet") for key in pq.read_table(index)["score_key"]]
    digests["score keys of the store"] = _sha256(repr(sorted(map(str, keys))).encode())
    return digests


def _name(path: Path) -> str:
    """Name an output in one way for every commit: evaluations were `small/r1.json` once."""
    return path.as_posix().replace("evaluations/small/", "evaluations/small-")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
