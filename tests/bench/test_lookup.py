"""bench.store.lookup: it runs, and half of the queried keys are in the store."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.store import lookup
from pipeline.store.lookup import find_known


def test_both_look_ups_are_measured(tmp_path: Path) -> None:
    arguments = ["--json", str(tmp_path / "rows.json"), "--sequences", "40", "--segments", "2"]
    done = CliRunner().invoke(lookup.main, [*arguments, "--keys", "10", "--repeats", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert {row["name"].split(", ")[0] for row in rows} == {"find_known", "both hex keys"}
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.parametrize("count", [2, 10])
def test_half_of_the_queried_keys_are_known(tmp_path: Path, count: int) -> None:
    keys = [key for segment in range(2) for key in lookup._write(tmp_path, segment, 20)]
    assert len(find_known(tmp_path, lookup._SCORER, lookup._half_known(keys, count))) == count // 2
