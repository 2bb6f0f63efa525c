"""Rollouts that are used again."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.core.types import Rollout


def replayed_rollouts(earlier: Sequence[Rollout], *, rounds: int, max_age: int | None, step: int) -> list[Rollout]:
    """A student's own rollouts of the latest `rounds` before global step `step`, none older than `max_age` steps.

    `earlier` is the file of the round before, which holds what that one replayed.
    """
    own = [one for one in earlier if one.source in ("student", "replay")]
    latest = sorted({one.step for one in own}, reverse=True)[:rounds]
    kept = {one for one in latest if max_age is None or step - one <= max_age}
    return [replace(one, source="replay") for one in own if one.step in kept]
