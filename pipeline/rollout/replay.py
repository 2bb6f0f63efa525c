"""Select rollouts of earlier rounds to train on again."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.core.types import Rollout


def replayed_rollouts(earlier: Sequence[Rollout], *, rounds: int, max_age: int | None, step: int) -> list[Rollout]:
    """Return a student's own rollouts of its latest rounds, marked as replayed.

    Args:
        earlier: All rollouts of the previous round's file, which include the rollouts that it replayed.
        rounds: The number of rounds to replay.
        max_age: The largest age of a rollout in optimizer steps; None has no limit.
        step: The global step before which the rollouts are used.
    """
    own = [rollout for rollout in earlier if rollout.source in ("student", "replay")]
    latest = sorted({rollout.step for rollout in own}, reverse=True)[:rounds]
    replayed = {start for start in latest if max_age is None or step - start <= max_age}
    return [replace(rollout, source="replay") for rollout in own if rollout.step in replayed]
