"""Where every file of a project lies."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
TEACHER = Path("work/teacher")
PROMPTS = Path("work/prompts/prompts.parquet")
RANKS = Path("work/prompts/ranks.npy")
COSTS = Path("work/costs")
EVALUATIONS = Path("work/evaluations")


def store_root() -> Path:
    """The store that checkouts may share; neither dependency nor output of any stage."""
    return Path(os.environ.get("STILLROOM_STORE", ".store"))
