"""The student's own completions for one round and what they are worth, work/STUDENT/ROUND/rollouts.parquet.

Behind them stand rollouts that are used again: the student's own of earlier rounds, out of the file of the round
before. They are copied, so that whoever scores or trains sees one file; the
store knows their scores.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.core.types import Rollout
from pipeline.metrics.rewards import reward_rollouts
from pipeline.rollout.collect import RolloutParams, prompts_of_round, turn_of
from pipeline.rollout.replay import replayed_rollouts
from pipeline.rollout.sample import sample_rollouts
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import PARAMS, PROMPTS
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--student", required=True)
@click.option("--round", "round_id", required=True)
@click.option("--prev", required=True)
@click.option("--first-step", type=int, required=True)
def main(student: str, round_id: str, prev: str, first_step: int) -> None:
    p, seed = section(PARAMS, RolloutParams, "rollout"), lookup(PARAMS, "seed")
    weights = section(PARAMS, dict[str, float], "reward")
    chosen = prompts_of_round(read_prompts(PROMPTS, "train"), p.prompts, turn_of(round_id), seed, student)
    used_again = _replayed(student, prev, first_step)

    def finish(sampled: list[Rollout]) -> list[Rollout]:
        fresh = [replace(one, step=first_step) for one in sampled]
        return [*reward_rollouts(fresh, prompts=chosen, weights=weights), *used_again]

    with cost(f"{student}-{round_id}-rollout") as entry:
        entry["tokens"] = sample_rollouts(
            Path(f"work/{student}/{prev}/model"),
            chosen,
            p,
            samples=p.samples_per_prompt,
            name=f"{student}/{round_id}",
            seed=seed,
            source="student",
            out=Path(f"work/{student}/{round_id}/rollouts.parquet"),
            first=[],
            finish=finish,
            finish_key=[weights, first_step, [(one.source, one.rollout_id, one.policy) for one in used_again]],
        )


def _replayed(student: str, prev: str, first_step: int) -> Sequence[Rollout]:
    rounds, max_age = lookup(PARAMS, "replay", "rounds"), lookup(PARAMS, "replay", "max_age")
    path = Path(f"work/{student}/{prev}/rollouts.parquet")
    return (
        replayed_rollouts(read_rollouts(path), rounds=rounds, max_age=max_age, step=first_step)
        if path.is_file()
        else []
    )


if __name__ == "__main__":
    run(main)
