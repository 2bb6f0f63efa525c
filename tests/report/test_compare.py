"""pipeline.report.compare: runs from directories, files and revisions, in one page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.report.compare import METRICS, read_run, write_comparison
from pipeline.runtime.errors import DataError
from tests.pages import metrics


def write_metrics(folder: Path, closeness: float = 1.0) -> Path:
    path = folder / METRICS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics(closeness=closeness)), encoding="utf-8")
    return path


def test_a_run_is_a_directory_or_its_file(tmp_path: Path) -> None:
    path = write_metrics(tmp_path)
    assert read_run(str(tmp_path)) == read_run(str(path)) == metrics()


def test_the_page_has_every_run_under_the_name_of_its_argument(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("one", "two")]
    for closeness, name in enumerate(names, 1):
        write_metrics(Path(name), closeness)
    size = write_comparison(names, tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert size == len(html.encode())
    assert all(f"<h3>{name} small</h3>" in html for name in names)


def test_a_name_that_is_no_run_is_one_line_of_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    for name, message in (
        (str(tmp_path), "expected a file, got nothing"),
        ("missing.json", "expected a file, got nothing"),
        ("other.json", "expected metrics with teacher, got none"),
        ("v1.0", "v1.0: expected report/metrics.json there, got "),
    ):
        with pytest.raises(DataError) as caught:
            read_run(name)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_revision_is_read_without_checking_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `dvc exp run` the file is in DVC's cache and its hash in a commit, and Git ignores the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    write_metrics(tmp_path)
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "init", "-q"],
        [sys.executable, "-m", "dvc", "add", "-q", METRICS],
        ["git", "add", ".dvc", f"{METRICS}.dvc", "report/.gitignore"],
        ["git", *who, "commit", "-q", "-m", "one"],
        ["git", "tag", "v1.0"],
    ):
        subprocess.run(command, check=True, cwd=tmp_path)
    (tmp_path / METRICS).unlink()
    write_metrics(tmp_path, closeness=2.0)
    assert read_run("v1.0") == metrics()
    assert read_run(".") == metrics(closeness=2.0)
