"""One batch of training: sequences as token ids, and the teacher's rows of their completion positions.

Array suffixes: B sequences, N completion positions of all sequences laid end to end, K stored tokens of a position
(padded to the widest), J tail samples of a position (padded likewise); see `pipeline.core.types`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.types import Floats

Array: TypeAlias = Any  # a numpy array from `pipeline.training.collate`, a torch tensor in the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTargets:
    """The tokens of N positions whose logits a loss needs.

    The stored ids of a position are distinct. Padding repeats the first of them with log-prob -inf.
    """

    ids_NK: Array  # int32: stored tokens
    logp_NK: Array  # float32: the teacher's log-probs of the stored tokens
    tail_sample_ids_NJ: Array  # int32
    token_ids_N: Array  # int64: the completion's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows(LossTargets):
    """Everything that the loss knows about N positions beside the student's logits.

    Log-probs of the teacher are at the temperature of the loss. Padding carries no probability: padded entries have
    log-prob -inf, and padded tail samples have log-weight -inf.
    """

    on_policy_N: Array  # bool: the student sampled the sequence in the current round
    behaviour_logp_N: Array  # float32: log-prob under the student that sampled the token; NaN where no student did
    sampling_logp_N: Array  # float32: log-prob under the policy, student or teacher, that sampled the token; else NaN
    advantage_N: Array  # float32: reward minus the mean reward of the prompt's other completions; 0 without a reward
    token_logp_N: Array  # float32: the teacher's log-prob of the token
    stored_only_because_sampled_N: Array  # bool: the token is stored for no other reason than that it was sampled
    tail_mean_N: Array  # float32: mean log-prob of the teacher over the student's tail; NaN where it is unknown
    tail_N: Array  # float32: the teacher's mass outside the stored tokens
    tail_sample_logp_NJ: Array  # float32
    tail_sample_logweight_NJ: Array  # float32: log of the sample's weight in the expectation over the tail
    has_tail_samples_N: Array  # bool; also true where all samples have weight 0 because their tokens are stored

    def __getitem__(self, span: slice) -> "TeacherRows":
        """Return the rows of a span of positions, as views of the same memory."""
        return self._map(lambda array: array[span])

    def to(self, device: torch.device) -> "TeacherRows":
        """Return rows of numpy arrays as tensors on a device; on the CPU they share the arrays' memory."""
        return self._map(lambda array: torch.from_numpy(array).to(device))

    def _map(self, change: Callable[[Array], Array]) -> "TeacherRows":
        return TeacherRows(**{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B sequences whose scored tokens, laid end to end, are the N positions of `rows`."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    on_policy_B: NDArray[np.bool_]  # the student sampled the completion in the current round
    finished_B: NDArray[np.bool_]  # the completion ends with eos
    reward_B: Floats  # NaN where there is no reward
    rows: TeacherRows
    # Which tokens of the completions, laid end to end, are the N positions; None: all. The others were written by
    # somebody else: they are read, and have no loss.
    scored_N: NDArray[np.int64] | None = None
