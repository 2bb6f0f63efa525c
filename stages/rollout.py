"""The student's own completions for one round and what they are worth, work/STUDENT/ROUND/rollouts.parquet."""

from functools import partial
from pathlib import Path

import click

from pipeline.params import lookup, section
from pipeline.rewards import reward_rollouts
from pipeline.rollouts import RolloutParams, choose
from stages.command import PARAMS, PROMPTS, cost, run
from stages.inputs import read_prompts
from stages.sampling import sample_rollouts


@click.command(help=__doc__)
@click.option("--student", required=True)
@click.option("--round", "round_id", required=True)
@click.option("--prev", required=True)
def main(student: str, round_id: str, prev: str) -> None:
    p, seed = section(PARAMS, RolloutParams, "rollout"), lookup(PARAMS, "seed")
    weights = section(PARAMS, dict[str, float], "reward")
    chosen = choose(read_prompts(PROMPTS, "train"), p.prompts, seed, student, round_id)
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
            finish=partial(reward_rollouts, prompts=chosen, weights=weights),
            finish_key=weights,
        )


if __name__ == "__main__":
    run(main)
