"""One batch as the loss takes it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B sequences ready for the loss: ragged tokens, and the teacher's rows of their N positions, padded to K and J.

    Arrays are numpy when they come from `batches` and torch tensors inside training (`Any` stands for both). Padding
    entries have log-prob -inf and padding draws have log-weight -inf, so that they carry no probability.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    from_student_B: Any  # bool: the student's own completions of the round at hand
    finished_B: Any  # bool
    token_ids_N: Any  # int64, completion ids end to end
    fresh_N: Any  # bool: positions of `from_student_B`
    behaviour_logp_N: Any  # float32, NaN where no student wrote the token
    sampling_logp_N: Any  # float32, under whoever drew the token, the teacher as well; NaN in the data set's text
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
