"""The training log reads back from its file as it was written."""

from pathlib import Path

from pipeline.training.log import read_log, write_log


def test_a_log_reads_back_with_empty_cells_as_none(tmp_path: Path) -> None:
    rows = [{"student": "", "step": 1, "loss": 1 / 3, "reward": None}, {"student": "s", "step": 2, "loss": 2.0}]
    rows[1]["reward"] = 0.5
    write_log(tmp_path / "log.csv", rows)
    assert read_log(tmp_path / "log.csv") == rows


def test_a_quantity_without_any_value_has_no_column(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv", [{"step": 1, "reward": None}, {"step": 2, "reward": None}])
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "step\n1\n2\n"
    resumed = [*read_log(tmp_path / "log.csv"), {"step": 3, "reward": 1.0}]
    write_log(tmp_path / "log.csv", resumed)
    assert [row["reward"] for row in read_log(tmp_path / "log.csv")] == [None, None, 1.0]
