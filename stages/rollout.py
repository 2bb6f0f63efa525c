"""Sample a student's own completions for one round, and rate them with the reward functions.

In: the model and the rollouts of the round before, and work/prompts. Out: work/STUDENT/ROUND/rollouts.parquet, with the
rollouts of this round first and replayed rollouts of earlier rounds after them. Replayed rollouts are copied, so that
the stages that score and train read one file; the teacher does not score them again.

A student that got worse samples nothing where evaluation.stop_if_worse ended its schedule: the file is that of the
round before, whose scores the store has.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.core.types import Rollout
from pipeline.metrics.rewards import reward_rollouts
from pipeline.rollout.collect import RolloutParams, prompts_of_round, replayed_rollouts, turn_of
from pipeline.rollout.sample import SamplingJob, write_rollouts
from pipeline.runtime.atomic import copy
from stages._stage import StageContext, ended, run, stage


@stage(
    "{student}-{round_id}-rollout",
    seed=int,
    rollout=RolloutParams,
    reward=dict[str, float],
    replay_rounds=("replay.rounds", int),
    max_age=("replay.max_age", int | None),
)
def main(ctx: StageContext, p: Any, student: str, round_id: str, prev: str, first_step: int, gate: Path) -> None:
    """Write the rollouts of a round."""
    before, train = ctx.layout.round(student, prev), read_prompts(ctx.layout.prompts, "train")
    if ended(gate):
        copy(before.rollouts, ctx.layout.round(student, round_id).rollouts)
        return
    prompts = prompts_of_round(train, p.rollout.prompts, turn_of(round_id), p.seed, student)
    earlier = read_rollouts(before.rollouts) if before.rollouts.is_file() else []
    replayed = replayed_rollouts(earlier, rounds=p.replay_rounds, max_age=p.max_age, step=first_step)
    job = SamplingJob(
        model=before.model,
        prompts=prompts,
        samples=p.rollout.samples_per_prompt,
        source="student",
        name=f"{student}/{round_id}",
        seed=p.seed,
        params=p.rollout,
    )

    def finish(sampled: list[Rollout]) -> list[Rollout]:
        of_round = [replace(rollout, step=first_step) for rollout in sampled]
        return [*reward_rollouts(of_round, prompts=prompts, weights=p.reward), *replayed]

    ctx.cost["tokens"] = write_rollouts(job, ctx.layout.round(student, round_id).rollouts, finish)


if __name__ == "__main__":
    run(main)
