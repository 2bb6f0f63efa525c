"""Make the fixed corpus that all students share: references, and completions of the teacher.

In: work/teacher and work/prompts. Out: work/corpus/rollouts.parquet, the references first.
"""

from typing import Any

from pipeline.core.files import read_prompts
from pipeline.core.types import reference_rollouts
from pipeline.rollout.collect import CorpusParams, RolloutParams, shuffle_prompts
from pipeline.rollout.sample import ROLLOUTS, SamplingJob, count_tokens, finish_rollouts, sample
from pipeline.runtime.resume import resumable
from stages._stage import StageContext, run, stage


@stage("generate", seed=int, corpus=CorpusParams, rollout=RolloutParams)
def main(ctx: StageContext, p: Any) -> None:
    """Write the corpus."""
    train, most = read_prompts(ctx.layout.prompts, "train"), max(p.corpus.references, p.corpus.generations)
    prompts = shuffle_prompts(train, most, p.seed, "corpus")
    job = SamplingJob(
        model=ctx.layout.teacher,
        prompts=prompts[: p.corpus.generations],
        samples=p.corpus.samples_per_prompt,
        source="teacher",
        name="teacher",
        seed=p.seed,
        params=p.rollout,
    )
    with resumable({ROLLOUTS: ctx.layout.corpus.rollouts}, job.fingerprint()) as scratch:
        completions = sample(job, scratch)
        finish_rollouts(scratch, [*reference_rollouts(prompts[: p.corpus.references]), *completions])
    ctx.cost["tokens"] = count_tokens(completions)


if __name__ == "__main__":
    run(main)
