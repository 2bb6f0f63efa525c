"""The stage `plan`, which reports within seconds what would stop a later stage."""

from pathlib import Path

import pytest

from pipeline.runtime.errors import StoreError
from pipeline.workspace.schedule import follow_params
from stages.plan import main
from tests.dvc_projects import make_dvc_project


def test_a_store_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_dvc_project(tmp_path / "project", students=["small"]))
    follow_params()
    main.run()
    assert Path("work/plan.json").is_file()
    Path("taken").touch()
    monkeypatch.setenv("STILLROOM_STORE", "taken/store")
    with pytest.raises(StoreError, match="expected a place for the store that can be written, got Not a directory; "):
        main.run()
