"""Prompts to rollouts: which prompts a round takes, and the completions of a student, the teacher or the data set.

Rounds take training prompts in epochs, each in an order keyed by (seed, author, epoch). Batches are fixed before
anything is sampled, sorted by length, so that one batch can be made again alone after a kill and gives the same
completions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.core.hashing import derive_seed
from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Prompt, Rollout, Source
from pipeline.rollout.sampler import Sampler
from pipeline.runtime.config import Count, Positive

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutParams:
    """How a student writes its rollouts."""

    prompts: Count
    """Training prompts a round takes, by epochs, at most all; 0, with batches.student_fraction: 0, costs nothing."""
    samples_per_prompt: Positive
    """Completions of each, as in GRPO: a prompt costs once, however many there are."""
    batch_size: Positive
    """Completions decoded at once."""
    precision: Precision
    """Of the sampler's weights."""
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusParams:
    """The static data that every student shares: scored once. Both kinds take the same prompts as far as they go."""

    references: Count
    """Prompts with the data set's own completion."""
    generations: Count
    """Prompts with completions by the teacher."""
    samples_per_prompt: Positive
    """The teacher's completions of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to write."""

    sample_id: str
    prompt: Prompt


def shuffle_prompts(prompts: Sequence[Prompt], count: int, *key: object) -> list[Prompt]:
    """At most `count` prompts in an order that depends on the key and the prompts' ids alone."""
    return sorted(prompts, key=lambda one: derive_seed(*key, one.prompt_id))[:count]


def prompts_of_round(prompts: Sequence[Prompt], count: int, turn: int, *key: object) -> list[Prompt]:
    """The `count` prompts, at most all, of the turn-th round, from 0: none comes again before the others of its epoch.

    Prompts that are too few for another round are left out of their epoch, as a DataLoader drops its last batch.
    """
    if count == 0:
        return []
    epoch, at = divmod(turn, max(1, len(prompts) // count))
    return shuffle_prompts(prompts, len(prompts), *key, epoch)[at * count : (at + 1) * count]


def plan_batches(prompts: Sequence[Prompt], samples: int, batch_size: int, *, name: str) -> list[list[Request]]:
    """Requests in batches of similar prompt length; ids are `name/prompt/sample`."""
    requests = [
        Request(sample_id=f"{name}/{prompt.prompt_id}/{index}", prompt=prompt)
        for prompt in prompts
        for index in range(samples)
    ]
    requests.sort(key=lambda one: (len(one.prompt.prompt_ids), one.sample_id))
    return [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]


def collect_rollouts(
    batch: Sequence[Request], sampler: Sampler, sampling: Sampling, decode: Decode, *, source: Source
) -> list[Rollout]:
    """The rollouts of one batch; what the author found likely, and draws from the rest, are recorded of students."""
    if source != "student":
        sampling = replace(sampling, record_max=0, record_tail_samples=0)
    sampled = sampler.sample([one.prompt.prompt_ids for one in batch], [one.sample_id for one in batch], sampling)
    return [
        Rollout(
            rollout_id=request.sample_id,
            prompt_id=request.prompt.prompt_id,
            source=source,
            policy=sampler.fingerprint,
            prompt_ids=request.prompt.prompt_ids,
            completion_ids=one.token_ids,
            behaviour_logp=one.logp,
            support_ids=one.support_ids if source == "student" else [],
            tail_sample_ids=one.tail_sample_ids if source == "student" else [],
            tail_offset=one.tail_offset if source == "student" else [],
            finished=one.finished,
            text=decode(one.token_ids),
        )
        for request, one in zip(batch, sampled, strict=True)
    ]


def turn_of(round_id: str) -> int:
    """Which of the rounds it is, from 0."""
    return int(round_id.removeprefix("r")) - 1
