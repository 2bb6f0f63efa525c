"""Read the records that stages hand to each other, and rank token ids for work/prompts/ranks.npy."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Prompt, Rollout
from pipeline.runtime.files import read_rows
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT


def prompts_file(prompts: Path, split: str) -> Path:
    """Return the file with the prompts of one split, `train` or `heldout`, in the directory work/prompts."""
    return prompts / f"{split}.parquet"


def read_prompts(prompts: Path, split: str) -> list[Prompt]:
    """Return the prompts of one split, in the order of the file in the directory work/prompts.

    Raises:
        DataError: The file is missing, damaged or of another schema.
    """
    return [Prompt(**row) for row in read_rows(prompts_file(prompts, split), PROMPT)]


def read_rollouts(path: Path) -> list[Rollout]:
    """Return all rollouts, in the order of the file.

    Raises:
        DataError: The file is missing, damaged or of another schema.
    """
    return [Rollout(**row) for row in read_rows(path, ROLLOUT)]


def rank_by_count(counts_V: NDArray[Any]) -> NDArray[np.int32]:
    """Return the token ids [V], the most frequent first, equally frequent ones by id."""
    return np.argsort(-counts_V, kind="stable").astype(np.int32)
