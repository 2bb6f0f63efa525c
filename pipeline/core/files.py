"""Reading what earlier stages wrote, as records."""

from pathlib import Path

from pipeline.core.types import Prompt, Rollout
from pipeline.runtime.files import read_rows
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT


def read_prompts(path: Path, split: str) -> list[Prompt]:
    """The prompts of one split, in order."""
    return [Prompt(**row) for row in read_rows(path, PROMPT) if row["split"] == split]


def read_rollouts(path: Path) -> list[Rollout]:
    """Rollouts, in order."""
    return [Rollout(**row) for row in read_rows(path, ROLLOUT)]
