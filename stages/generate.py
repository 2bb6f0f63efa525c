"""Make the fixed corpus that all students share: references, and completions of the teacher.

In: work/teacher and work/prompts. Out: work/corpus/rollouts.parquet, the references first.
"""

from typing import Any

from pipeline.core.files import read_prompts
from pipeline.core.types import reference_rollouts
from pipeline.rollout.collect import CorpusParams, RolloutParams, shuffle_prompts
from pipeline.rollout.sample import SamplingJob, write_rollouts
from stages._stage import StageContext, Tracked, run, stage

# The numbers of prompts and completions are those of the corpus, and a teacher's rollouts record nothing.
_OF_STUDENTS = ("prompts", "samples_per_prompt")
_RECORDED = ("sampling.record_threshold", "sampling.record_max", "sampling.record_tail_samples")


@stage(
    "generate",
    seed=int,
    corpus=CorpusParams,
    rollout=Tracked(key="rollout", kind=RolloutParams, untracked=_OF_STUDENTS + _RECORDED),
)
def main(ctx: StageContext, p: Any) -> None:
    """Write the corpus."""
    prompts = shuffle_prompts(read_prompts(ctx.layout.prompts, "train"), p.seed, "corpus")
    job = SamplingJob(
        model=ctx.layout.teacher,
        prompts=prompts[: p.corpus.generations],
        samples=p.corpus.samples_per_prompt,
        source="teacher",
        name="teacher",
        seed=p.seed,
        params=p.rollout,
    )
    references = reference_rollouts(prompts[: p.corpus.references])
    ctx.cost["tokens"] = write_rollouts(job, ctx.layout.corpus.rollouts, lambda sampled: [*references, *sampled])


if __name__ == "__main__":
    run(main)
