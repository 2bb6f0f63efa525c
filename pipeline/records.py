"""The nouns, and the notation of every array in this project.

Shape suffixes: B sequences, P prompt tokens, T completion tokens, N completion positions of many sequences laid end
to end, K stored entries of a position, J draws of a position, H temperatures, C = K + 1 outcomes (the stored
tokens and "any other token"), V vocabulary, D hidden width. Ragged data lie flat beside their counts: E head
entries, U union entries, R draws. Log-probabilities are natural (nats).

Everything is aligned with the completion: row t of any score is the teacher's distribution *of* completion token t,
given the prompt and the tokens before t. Only `lm` shifts or pads.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Source: TypeAlias = Literal["student", "replay", "peer", "dataset", "teacher"]
Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]
Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One case of a task: the prompt as token ids, and what the data set answers."""

    prompt_id: str
    split: Literal["train", "heldout"]
    prompt_ids: list[int]
    reference_ids: list[int]  # of the first reference; ends with eos
    prompt_text: str
    references: list[str]  # every right answer, at least one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A prompt with one completion of it: from the student, fresh or replayed (an earlier round's), from another
    student (a peer), the data set or the teacher."""

    rollout_id: str
    prompt_id: str
    source: Source
    author: str  # fingerprint of the model that wrote it, "" for the data set
    prompt_ids: list[int]
    completion_ids: list[int]
    behaviour_logp: list[float]  # [T] log-prob of each token under the sampler; [] for the data set
    support_ids: list[list[int]]  # [T] lists: tokens to which the author gave q > t_q; [] unless a student wrote it
    tail_ids: list[list[int]]  # [T] lists: the author's draws from all other tokens; [] as above
    tail_offset: list[
        float
    ]  # [T] nats: the mean log-prob, under the author, of all other tokens less that of the draws
    ended: bool  # the completion ends with eos
    text: str  # for people: derived from completion_ids, never tokenised again
    step: int = 0  # optimizer steps after which its student stood, by the schedule; 0 for the others
    reward: float | None = None  # what the completion is worth; None unless a student wrote it and rewards are given


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenComparison:
    """Teacher and student at one position of a held-out completion, for people to look at."""

    prompt_id: str
    position: int
    token: str  # what the student sampled there
    forward_kl: float  # nats
    reverse_kl: float
    teacher_tokens: list[str]  # the likeliest, best first
    teacher_p: list[float]
    student_tokens: list[str]
    student_p: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The teacher's distribution at N consecutive completion positions, truncated.

    Head: tokens chosen from the teacher and the realised token alone, so any student can use them. Draws: samples
    with replacement from the teacher's distribution restricted to the tokens outside the head. Union: tokens that
    the author of the rollout found likely and that are outside the head. Within a position ids are distinct across
    head and union. Log-probs are at temperature 1; `lse` carries them to the other temperatures:
    log p_H(i) = log p(i) / temperature_H - lse_H.
    """

    head_ids: Ints  # [E]
    head_logp: Floats  # [E]
    head_n: Ints  # [N]
    tail_NH: Floats  # mass outside the head at each temperature
    lse_NH: Floats  # log sum_V p(i) ** (1 / temperature); 0 at temperature 1
    entropy_NH: Floats  # nats
    token_logp_N: Floats  # log-prob of the realised token
    realised_only_N: NDArray[
        np.bool_
    ]  # the realised token is in the head for no other reason, and its author's unlikely
    draw_ids: Ints  # [R]
    draw_logp: Floats  # [R]
    draw_n: Ints  # [N]
    union_ids: Ints  # [U]
    union_logp: Floats  # [U]
    union_n: Ints  # [N]
    union_tail_NH: Floats  # mass outside head and union; equals tail_NH where the union is empty
    tail_g_N: Floats  # G: estimated mean log-prob of tokens outside head and union, as their author draws; NaN: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B sequences ready for the loss: ragged tokens, and the teacher's rows of their N positions, padded to K and J.

    Arrays are numpy when they come from `batches` and torch tensors inside training (`Any` stands for both). Padding
    entries have log-prob -inf and padding draws have log-weight -inf, so that they carry no probability.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    from_student_B: Any  # bool: the student's own completions of the round at hand
    ended_B: Any  # bool
    token_ids_N: Any  # int64, completion ids end to end
    fresh_N: Any  # bool: positions of `from_student_B`
    behaviour_logp_N: Any  # float32, NaN where no student wrote the token
    author_logp_N: Any  # float32, under whoever drew the token, the teacher as well; NaN in the data set's text
    token_logp_N: Any  # the teacher's, at the loss temperature
    realised_only_N: Any  # bool: the token is among the stored ones for no other reason
    tail_g_N: Any  # as in `Scores`
    reward_B: Any  # float32, NaN where there is none
    advantage_N: Any  # float32, of the token's completion over the others of its prompt; 0 where there is no reward
    ids_NK: Any  # int32, as the draws' are; torch gathers by int64
    logp_NK: Any  # at the loss temperature
    tail_N: Any  # mass outside ids_NK at the loss temperature
    draw_ids_NJ: Any
    draw_logp_NJ: Any  # at the loss temperature
    draw_logweight_NJ: Any  # log of what each draw counts in the expectation over the tail; -inf: none
    has_draws_N: Any  # bool; true also where no draw counts because the stored entries hold every one
