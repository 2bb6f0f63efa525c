"""The nouns, and the notation of every array in this project.

Shape suffixes: B sequences, P prompt tokens, T completion tokens, N completion positions of many sequences laid end
to end, K stored entries of a position, J draws of a position, H temperatures, C = K + 1 outcomes (the stored
tokens and "any other token"), V vocabulary, D hidden width. Ragged data lie flat beside their counts: E head
entries, U union entries, R draws. Log-probabilities are natural (nats).

Everything is aligned with the completion: row t of any score is the teacher's distribution *of* completion token t,
given the prompt and the tokens before t. Only `lm` shifts or pads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Source: TypeAlias = Literal["student", "replay", "dataset", "teacher"]
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
    """A prompt with one completion of it: from the student, fresh or replayed (an earlier round's), the data set or
    the teacher."""

    rollout_id: str
    prompt_id: str
    source: Source
    policy: str  # fingerprint of the model that wrote it, "" for the data set
    prompt_ids: list[int]
    completion_ids: list[int]
    behaviour_logp: list[float]  # [T] log-prob of each token under the sampler; [] for the data set
    support_ids: list[list[int]]  # [T] lists: tokens to which the author gave q > t_q; [] unless a student wrote it
    tail_sample_ids: list[list[int]]  # [T] lists: the author's draws from all other tokens; [] as above
    tail_offset: list[
        float
    ]  # [T] nats: the mean log-prob, under the author, of all other tokens less that of the draws
    finished: bool  # the completion ends with eos
    text: str  # for people: derived from completion_ids, never tokenised again
    step: int = 0  # optimizer steps after which its student stood, by the schedule; 0 for the others
    reward: float | None = None  # what the completion is worth; None unless a student wrote it and rewards are given


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


def reference_rollouts(prompts: Sequence[Prompt]) -> list[Rollout]:
    """The data set's own completions, cut nowhere; they have no behaviour log-probs."""
    return [
        Rollout(
            rollout_id=f"dataset/{prompt.prompt_id}",
            prompt_id=prompt.prompt_id,
            source="dataset",
            policy="",
            prompt_ids=prompt.prompt_ids,
            completion_ids=prompt.reference_ids,
            behaviour_logp=[],
            support_ids=[],
            tail_sample_ids=[],
            tail_offset=[],
            finished=True,
            text=prompt.references[0],
        )
        for prompt in prompts
    ]
