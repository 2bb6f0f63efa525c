"""Choose the prompts and the replayed rollouts of a round, and turn prompts into rollouts with a sampler.

* Rounds take training prompts in epochs; each epoch has a random order keyed by (seed, student, epoch).
* Guarantee: batches are fixed before anything is sampled, sorted by prompt length. So a killed run can sample one batch
  again and gets the same completions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from pipeline.core.hashing import derive_seed
from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision, Prompt, Recorded, Rollout, Source
from pipeline.rollout.sampler import Sampler
from pipeline.runtime.config import Count, Positive

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutParams:
    """How a student samples its rollouts."""

    prompts: Count
    """Training prompts per round, at most all, taken in epochs. Set 0 with batches.student_fraction: 0."""
    samples_per_prompt: Positive
    """Completions per prompt, as in GRPO. A prompt is read once for all its completions."""
    batch_size: Positive
    """Completions sampled in one batch."""
    precision: Precision
    """Number format of the sampler's weights."""
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusParams:
    """The fixed corpus, which all students share and the teacher scores once.

    References and generations share prompts where they can.
    """

    references: Count | None
    """Prompts with the data set's own completion; null means all."""
    generations: Count | None
    """Prompts with completions of the teacher; null means all."""
    samples_per_prompt: Positive
    """The teacher's completions per prompt."""

    def prompts_of(self, train: int) -> tuple[int, int]:
        """Return the numbers of prompts with a reference and with completions, of `train` training prompts."""
        references, generations = (train if count is None else count for count in (self.references, self.generations))
        return references, generations


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to sample."""

    sample_id: str
    prompt: Prompt


def shuffle_prompts(prompts: Sequence[Prompt], *key: object) -> list[Prompt]:
    """Return the prompts in a random order that depends only on the key and the prompts' ids."""
    return sorted(prompts, key=lambda prompt: derive_seed(*key, prompt.prompt_id))


def prompts_of_round(prompts: Sequence[Prompt], count: int, index: int, *key: object) -> list[Prompt]:
    """Return the prompts of a round: no prompt comes again before its epoch ends.

    An epoch drops the last prompts if they are too few for another round, as a DataLoader drops its last batch.

    Args:
        prompts: All training prompts.
        count: Prompts per round, at most all.
        index: The round's number, from 0.
        key: The key of the random order.
    """
    if count == 0:
        return []
    epoch, place = divmod(index, max(1, len(prompts) // count))
    return shuffle_prompts(prompts, *key, epoch)[place * count : (place + 1) * count]


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


def plan_batches(prompts: Sequence[Prompt], samples: int, batch_size: int, *, name: str) -> list[list[Request]]:
    """Return the requests for `samples` completions per prompt, in batches of similar prompt length.

    Sample ids are `name/prompt/sample`.
    """
    requests = [
        Request(sample_id=f"{name}/{prompt.prompt_id}/{sample}", prompt=prompt)
        for prompt in prompts
        for sample in range(samples)
    ]
    requests.sort(key=lambda request: (len(request.prompt.prompt_ids), request.sample_id))
    return [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]


def collect_rollouts(
    batch: Sequence[Request], sampler: Sampler, sampling: Sampling, decode: Decode, *, source: Source
) -> list[Rollout]:
    """Sample the rollouts of one batch.

    Only rollouts of a student record its likely tokens and its tail samples.

    Raises:
        DataError: When a prompt and a completion do not fit into the model's context.
    """
    recorded = [field.name for field in fields(Recorded)] if source == "student" else []
    if not recorded:
        sampling = replace(sampling, record_max=0, record_tail_samples=0)
    prompts_ids, sample_ids = [request.prompt.prompt_ids for request in batch], [request.sample_id for request in batch]
    return [
        Rollout(
            rollout_id=request.sample_id,
            prompt_id=request.prompt.prompt_id,
            source=source,
            policy=sampler.fingerprint,
            prompt_ids=request.prompt.prompt_ids,
            completion_ids=sampled.token_ids,
            behaviour_logp=sampled.logp,
            finished=sampled.finished,
            text=decode(sampled.token_ids),
            **{name: getattr(sampled, name) for name in recorded},
        )
        for request, sampled in zip(batch, sampler.sample(prompts_ids, sample_ids, sampling), strict=True)
    ]


def turn_of(round_id: str) -> int:
    """Return the number of a round, from 0, by its id (`r1` is 0)."""
    return int(round_id.removeprefix("r")) - 1
