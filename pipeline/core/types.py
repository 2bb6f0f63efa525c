"""The records that every step of the pipeline shares, and the notation of its arrays.

Shape suffixes: B sequences, P prompt tokens, T completion tokens, N completion positions of many sequences laid end to
end, K stored entries of a position, J tail samples of a position, H temperatures, C = K + 1 outcomes (the stored
tokens and the other-token bucket), V vocabulary, D hidden width. Ragged data are flat arrays beside their counts: E top
tokens, U student-support tokens, R tail samples. Log-probs are natural logarithms (nats).

Rows are aligned with the completion: row t of any score is the teacher's distribution of completion token t, given the
prompt and the tokens before t. Tokens that somebody else wrote (`TokenSequence.completion_mask`) have no row: where a
completion has a mask, T and t count its scored tokens alone. Only `pipeline.models` shifts or pads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Source: TypeAlias = Literal["student", "replay", "dataset", "teacher"]
Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]
Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One case of a task: a prompt as token ids, and the data set's answers."""

    prompt_id: str
    split: Literal["train", "heldout"]
    prompt_ids: list[int]
    reference_ids: list[int]  # of the first reference; ends with eos
    prompt_text: str
    references: list[str]  # every correct answer, at least one
    # [P] true at tokens of earlier assistant turns that references train on; empty where there are none
    assistant_mask: list[bool] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a sampler recorded of its distribution at T completion tokens; empty lists where it recorded nothing."""

    support_ids: list[list[int]] = field(default_factory=list)  # [T] tokens above `rollout.sampling.record_threshold`
    tail_sample_ids: list[list[int]] = field(default_factory=list)  # [T] samples from all other tokens
    tail_offset: list[float] = field(default_factory=list)  # [T] nats: mean log-prob of those tokens less the samples'


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence(Recorded):
    """A prompt with one completion, as token ids: everything that the teacher's scores depend on."""

    prompt_ids: list[int]
    completion_ids: list[int]
    # One for each of `completion_ids`, false where somebody else wrote the token, such as a user or a tool: it is read
    # and not scored, and has no loss. At least one is true. Empty where all tokens are scored.
    completion_mask: list[bool] = field(default_factory=list)

    @property
    def scored_ids(self) -> list[int]:
        """The T tokens that are scored."""
        return list(compress(self.completion_ids, self.completion_mask)) if self.is_masked else self.completion_ids

    @property
    def positions(self) -> int:
        """The number T of scored tokens."""
        return sum(self.completion_mask) if self.is_masked else len(self.completion_ids)

    @property
    def is_masked(self) -> bool:
        """Whether a token is not scored."""
        return not all(self.completion_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(TokenSequence):
    """A completion of a prompt with its origin: a student of this or an earlier round, the data set or the teacher."""

    rollout_id: str
    prompt_id: str
    source: Source  # "replay": a student of an earlier round
    policy: str  # fingerprint of the model that sampled the completion, "" for the data set
    behaviour_logp: list[float]  # [T] log-prob of each token under the sampler; [] for the data set
    finished: bool  # the completion ends with eos
    text: str  # for readers: decoded from completion_ids, never tokenised again
    step: int = 0  # optimizer steps of the student at the beginning of the round, by the schedule; 0 for other sources
    reward: float | None = None  # of the completion; None unless a student sampled it and the job has rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Tokens with the teacher's log-probs, any number at each of N positions, laid end to end."""

    ids: Ints  # [E]
    logp: Floats  # [E] nats, at temperature 1
    counts: Ints  # [N] entries of each position

    @classmethod
    def none(cls, positions: int) -> "Entries":
        """Return N positions without entries."""
        ids = np.zeros(0, np.int32)
        return cls(ids=ids, logp=ids.astype(np.float32), counts=np.zeros(positions, np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionStats:
    """What the store holds of each of N positions beside its entries."""

    tail_NH: Floats  # mass outside the top tokens at each temperature
    student_tail_NH: Floats  # mass outside top and student-support tokens; tail_NH where there are no such tokens
    lse_NH: Floats  # log sum_V p(i) ** (1 / temperature); 0 at temperature 1
    entropy_NH: Floats  # nats
    token_logp_N: Floats  # log-prob of the sampled token
    stored_only_because_sampled_N: NDArray[np.bool_]  # below the threshold, and not recorded by the sampler
    tail_mean_N: Floats  # mean teacher log-prob over the sampling policy's tail, estimated; NaN where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The teacher's distribution at N consecutive completion positions, truncated.

    Ids are distinct within a position across `top` and `student`. Log-probs are at temperature 1; `lse_NH` converts
    them to temperature h: log p_h(i) = log p(i) / temperature_h - lse_h.
    """

    top: Entries  # chosen by the teacher and the sampled token alone, so that any student can use them
    tail_samples: Entries  # drawn with replacement from the teacher's distribution outside the top tokens
    student: Entries  # student-support tokens: likely under the sampling policy, and outside the top tokens
    stats: PositionStats

    def __len__(self) -> int:
        """Return N, the number of positions."""
        return len(self.top.counts)

    @classmethod
    def of_top(cls, top: Entries, *, tail_NH: Floats, entropy_NH: Floats, token_logp_N: Floats) -> "Scores":
        """Return scores of top tokens alone, at temperature 1: without tail samples and student-support tokens."""
        positions, none = len(top.counts), Entries.none(len(top.counts))
        stats = PositionStats(
            tail_NH=tail_NH,
            student_tail_NH=tail_NH,
            lse_NH=np.zeros_like(tail_NH),
            entropy_NH=entropy_NH,
            token_logp_N=token_logp_N,
            stored_only_because_sampled_N=np.zeros(positions, np.bool_),
            tail_mean_N=np.full(positions, np.nan, np.float32),
        )
        return cls(top=top, tail_samples=none, student=none, stats=stats)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSequence:
    """A rollout and the teacher's scores of its completion, one position per completion token: a row of a segment."""

    rollout: Rollout
    scores: Scores


def reference_rollouts(prompts: Sequence[Prompt]) -> list[Rollout]:
    """Return the data set's own completions in full; they have no behaviour log-probs.

    A reference that trains on earlier assistant turns begins with the first of them. Its mask is false at what others
    wrote from there on.
    """
    return [_reference(prompt) for prompt in prompts]


def _reference(prompt: Prompt) -> Rollout:
    mask = prompt.assistant_mask
    # Nothing predicts the first token of all, so it stays in the prompt.
    first = max(1, mask.index(True)) if True in mask else len(prompt.prompt_ids)
    return Rollout(
        rollout_id=f"dataset/{prompt.prompt_id}",
        prompt_id=prompt.prompt_id,
        source="dataset",
        policy="",
        prompt_ids=prompt.prompt_ids[:first],
        completion_ids=prompt.prompt_ids[first:] + prompt.reference_ids,
        completion_mask=mask[first:] + [True] * len(prompt.reference_ids) if mask[first:] else [],
        behaviour_logp=[],
        finished=True,
        text=prompt.references[0],
    )
