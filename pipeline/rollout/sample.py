"""Sample the completions of a rollouts file, batch by batch.

* A killed run goes on after its last complete batch and ends with the same rollouts, because the batches are fixed
  before anything is sampled.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import click

from pipeline.core.files import read_rollouts
from pipeline.core.hashing import digest
from pipeline.core.types import Prompt, Rollout, Source
from pipeline.models.tokenizer import Tokenizer, completion_decoder, eos_ids, load_tokenizer, shared_vocab, token_texts
from pipeline.rollout.collect import Request, RolloutParams, collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.files import write_rows
from pipeline.runtime.progress import bar
from pipeline.runtime.resume import DONE, resumable
from schemas.rollout import ROLLOUT

_NEARLY_NONE = 0.02  # share of the completions that end


@dataclass(frozen=True, kw_only=True)
class SamplingJob:
    """Completions that one model is to write."""

    # The model directory. It is loaded when it is first needed: never, without prompts.
    model: Path
    prompts: Sequence[Prompt]
    samples: int  # Completions per prompt
    source: Source  # Who writes: the student or the teacher
    name: str  # The beginning of every rollout id, such as `small/r1`
    seed: int
    params: RolloutParams

    @property
    def batches(self) -> list[list[Request]]:
        """The completions in the batches in which they are sampled."""
        return plan_batches(self.prompts, self.samples, self.params.batch_size, name=self.name)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the model directory."""
        return load_tokenizer(self.model)

    @cached_property
    def sampler(self) -> HFSampler:
        """The model."""
        vocab, ends = shared_vocab(self.tokenizer), eos_ids(self.tokenizer)
        return HFSampler(self.model, precision=self.params.precision, vocab=vocab, eos_ids=ends, seed=self.seed)

    def fingerprint(self) -> str:
        """Return the digest of everything that the completions depend on."""
        policy = [self.sampler.fingerprint, eos_ids(self.tokenizer)] if self.prompts else []
        requests = [[(request.sample_id, request.prompt.prompt_ids) for request in batch] for batch in self.batches]
        return digest(policy, self.seed, self.params.precision, asdict(self.params.sampling), requests)


def write_rollouts(job: SamplingJob, path: Path, finish: Callable[[list[Rollout]], Sequence[Rollout]]) -> int:
    """Sample the completions of a job, and write the rollouts file.

    Args:
        job: What to sample.
        path: The rollouts file.
        finish: Returns all rows of the file, given the completions.

    Returns:
        The number of completion tokens that the model wrote.

    Raises:
        DataError: A prompt and its completion can exceed the context of the model.
    """
    with resumable({path.name: path}, job.fingerprint()) as scratch:
        completions = _sample(job, scratch)
        if warning := _warning(job, completions):
            click.echo(warning, err=True)
        rollouts = finish(completions)
        with whole_directory(scratch / DONE) as done:
            write_rows(done / path.name, rollouts, ROLLOUT)
    return _count_tokens(completions)


def _sample(job: SamplingJob, scratch: Path) -> list[Rollout]:
    """Return the completions of a job; those of complete batches are read from `scratch` and not sampled again."""
    rollouts: list[Rollout] = []
    batches = job.batches
    with bar(f"rollout {job.name}", sum(map(len, batches)) * job.params.sampling.max_new_tokens) as meter:
        for index, batch in enumerate(batches):
            part = scratch / f"part-{index:05d}.parquet"
            if not part.is_file():
                text_of = completion_decoder(job.tokenizer)
                sampled = collect_rollouts(batch, job.sampler, job.params.sampling, text_of, source=job.source)
                write_rows(part, sampled, ROLLOUT)
            rollouts += read_rollouts(part)
            meter.update(_count_tokens(rollouts) - meter.n)
        meter.total = meter.n
    return rollouts


def _warning(job: SamplingJob, completions: Sequence[Rollout]) -> str | None:
    """Return a line for the user where hardly any completion ends, before a student trains on them."""
    finished = sum(completion.finished for completion in completions)
    if not completions or finished > _NEARLY_NONE * len(completions):
        return None
    ends = ", ".join(token_texts(job.tokenizer, eos_ids(job.tokenizer)))
    return (
        f"warning: {job.name}: {finished} of {len(completions)} completions ended (with {ends}) within max_new_tokens "
        f"({job.params.sampling.max_new_tokens}): raise it, or fine-tune this model on references first (sft)"
    )


def _count_tokens(rollouts: Sequence[Rollout]) -> int:
    """Return the number of completion tokens."""
    return sum(len(rollout.completion_ids) for rollout in rollouts)
