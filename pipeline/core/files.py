"""Read the Parquet files of earlier stages as records."""

from pathlib import Path

from pipeline.core.types import Prompt, Rollout
from pipeline.runtime.files import read_rows
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT


def read_prompts(path: Path, split: str) -> list[Prompt]:
    """Return the prompts of one split, in the order of the file.

    Raises:
        DataError: The file is missing, damaged or of another schema.
    """
    return [Prompt(**row) for row in read_rows(path, PROMPT) if row["split"] == split]


def read_rollouts(path: Path) -> list[Rollout]:
    """Return all rollouts, in the order of the file.

    Raises:
        DataError: The file is missing, damaged or of another schema.
    """
    return [Rollout(**row) for row in read_rows(path, ROLLOUT)]
