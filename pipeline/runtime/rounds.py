"""Read rounds.yaml, which `stillroom plan` writes: the rounds of the schedule, and the names of its stages' costs."""

from collections.abc import Mapping
from typing import Any


def round_list(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rounds of rounds.yaml, each once: {id, prev, first_step, steps}."""
    rounds = {item["round"]: item for item in document["rounds"].values()}
    return [{"id": id_} | {key: item[key] for key in ("prev", "first_step", "steps")} for id_, item in rounds.items()]


def cost_names(document: Mapping[str, Any]) -> list[str]:
    """Return the names in work/costs of every stage that writes one: the shared stages, then student by student."""
    tuned = document["tuned"]
    names = ["teacher", "prepare", *(["teacher-sft"] if "teacher" in tuned else [])]
    names += ["generate", "corpus-score", "teacher-evaluate"]
    for student in document["starts"]:
        rounds = [name for name, item in document["rounds"].items() if item["student"] == student]
        names += [f"{student}-init", *([f"{student}-sft"] if student in tuned else []), f"{student}-init-evaluate"]
        names += [f"{name}-{stage}" for name in rounds for stage in ("rollout", "score", "train", "evaluate")]
    return names
