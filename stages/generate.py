"""The corpus that all students share, work/corpus/rollouts.parquet: references, and the teacher's own completions."""

from pathlib import Path

import click

from pipeline.core.files import read_prompts
from pipeline.core.types import reference_rollouts
from pipeline.rollout.collect import CorpusParams, RolloutParams, shuffle_prompts
from pipeline.rollout.sample import sample_rollouts
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import PARAMS, PROMPTS, TEACHER
from stages._stage import cost, run


@click.command(help=__doc__)
def main() -> None:
    corpus, p = section(PARAMS, CorpusParams, "corpus"), section(PARAMS, RolloutParams, "rollout")
    seed, prompts = lookup(PARAMS, "seed"), read_prompts(PROMPTS, "train")
    chosen = shuffle_prompts(prompts, max(corpus.references, corpus.generations), seed, "corpus")
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
