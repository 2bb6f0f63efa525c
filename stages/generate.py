"""The corpus that all students share, work/corpus/rollouts.parquet: references, and the teacher's own completions."""

from pathlib import Path

import click

from pipeline.params import lookup, section
from pipeline.rollouts import CorpusParams, RolloutParams, choose, reference_rollouts
from stages.command import PARAMS, PROMPTS, TEACHER, cost, run
from stages.inputs import read_prompts
from stages.sampling import sample_rollouts


@click.command(help=__doc__)
def main() -> None:
    corpus, p = section(PARAMS, CorpusParams, "corpus"), section(PARAMS, RolloutParams, "rollout")
    seed, prompts = lookup(PARAMS, "seed"), read_prompts(PROMPTS, "train")
    chosen = choose(prompts, max(corpus.references, corpus.generations), seed, "corpus")
    with cost("generate") as entry:
        entry["tokens"] = sample_rollouts(
            TEACHER,
            chosen[: corpus.generations],
            p,
            samples=corpus.samples_per_prompt,
            name="teacher",
            seed=seed,
            source="teacher",
            out=Path("work/corpus/rollouts.parquet"),
            first=reference_rollouts(chosen[: corpus.references]),
        )


if __name__ == "__main__":
    run(main)
