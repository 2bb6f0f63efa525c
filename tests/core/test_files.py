"""pipeline.core.files: records come back as they were written, and files without masks stay readable."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core.files import prompts_file, read_prompts, read_rollouts
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import write_rows
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from tests.factories import prompt, rollout

PROMPTS = [prompt("p", [1, 2], assistant_mask=[False, True]), prompt("q", [3])]
ROLLOUTS = [rollout("r", [7, 8], completion_mask=[True, False]), rollout("s", [9])]


def test_masks_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(prompts_file(tmp_path, "train"), PROMPTS, PROMPT)
    write_rows(tmp_path / "rollouts.parquet", ROLLOUTS, ROLLOUT)
    assert read_prompts(tmp_path, "train") == PROMPTS
    assert read_rollouts(tmp_path / "rollouts.parquet") == ROLLOUTS


def test_a_file_of_an_earlier_version_has_no_masks(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_rows(path, ROLLOUTS[1:], ROLLOUT)
    pq.write_table(pq.read_table(path).drop_columns(["completion_mask"]), path)
    assert read_rollouts(path) == ROLLOUTS[1:]
    pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    with pytest.raises(DataError, match=r"expected stillroom\.rollout/4"):
        read_rollouts(path)
