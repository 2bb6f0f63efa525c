"""Mixing of sources: which source fills each slot of a batch.

* Each slot is drawn: with probability lambda(step) (GKD's lambda) it takes a student rollout, which is a replayed one
  with probability `replay.weight`, and otherwise a sequence of the fixed corpus.
* Fractions are functions of the global step, so appended rounds do not change earlier ones.
* Adaptive replay follows DistiLLM (Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models",
  ICML 2024, section 3.2): the student's own outputs are used more often when the held-out divergence rises. Here the
  held-out data are completions at the moment they are sampled, before any training step on them: the mean of
  log b(y) - log p(y) over a round's own rollouts is an unbiased estimate of the reverse KL of the student that sampled
  them (at temperature 1 and top_p 1). Both log-probs are stored with the rollouts, so the estimate costs nothing. Each
  earlier round with a divergence that is not higher than the newest round's removes its share of the replay weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Rollout
from pipeline.runtime.config import Count, Fraction, NonNegative, Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A fraction that is linear from `start` at global step 0 to `end` at step `steps`, and constant afterwards."""

    start: Fraction
    end: Fraction
    steps: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusWeights:
    """The relative frequencies of the sources of the fixed corpus."""

    dataset: NonNegative
    """References of the data set."""
    teacher: NonNegative
    """Completions of the teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayParams:
    """The use of rollouts from earlier rounds; the store has their scores, so the teacher does not run again."""

    rounds: Count
    """Earlier rounds with rollouts that a round may replay; 0 disables replay."""
    weight: Fraction
    """Probability that a student's slot takes a replayed rollout."""
    max_age: Positive | None
    """Age in optimizer steps above which a rollout is not replayed; null: no limit."""
    adaptive: bool
    """Reduce the weight as the student's divergence stops falling."""


def fraction_at(fraction: float | Ramp, step: int) -> float:
    """Return a constant or linear fraction of params.yaml at a global step."""
    if not isinstance(fraction, Ramp):
        return fraction
    return fraction.start + (fraction.end - fraction.start) * min(step / fraction.steps, 1.0)


def replay_weight(p: ReplayParams, rollouts: Sequence[Rollout], teacher_nll_B: NDArray[Any]) -> float:
    """Return the probability of replay in a round.

    Args:
        p: the replay parameters.
        rollouts: the round's rollouts, replayed ones included.
        teacher_nll_B: the teacher's mean -log p of each rollout, in nats per token.
    """
    if not any(rollout.source == "replay" for rollout in rollouts):
        return 0.0
    if not p.adaptive:
        return p.weight
    reverse_kl = reverse_kl_by_step(rollouts, teacher_nll_B)
    newest = max(reverse_kl)
    return p.weight * float(np.mean([reverse_kl[newest] < reverse_kl[step] for step in reverse_kl if step < newest]))


def reverse_kl_by_step(rollouts: Sequence[Rollout], teacher_nll_B: NDArray[Any]) -> dict[int, float]:
    """Return the mean of log b(y) - log p(y) over the tokens of each round's own rollouts, in nats.

    The keys are the global steps at which the rounds began.
    """
    sums: dict[int, tuple[float, int]] = {}
    for rollout, nll in zip(rollouts, teacher_nll_B.tolist(), strict=True):
        if rollout.source in ("student", "replay"):
            log_ratio, tokens = sums.get(rollout.step, (0.0, 0))
            length = rollout.positions
            sums[rollout.step] = log_ratio + sum(rollout.behaviour_logp) + nll * length, tokens + length
    return {step: log_ratio / max(tokens, 1) for step, (log_ratio, tokens) in sums.items()}


def draw_kinds(uniform_N: NDArray[np.float64], shares_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of K kinds fills each of N slots.

    Args:
        uniform_N: a random number in [0, 1) for each slot.
        shares_NK: probabilities of the kinds; a row sums to 1 up to rounding.
    """
    ends_NK = shares_NK.cumsum(-1)
    kinds_N = (uniform_N[:, None] >= ends_NK).sum(-1)
    # Rounding of the sum must not lead to a kind beyond the last one with a share.
    last_N = shares_NK.shape[1] - 1 - (shares_NK[:, ::-1] > 0).argmax(-1)
    drawn_N: NDArray[np.int64] = np.minimum(kinds_N, last_N)
    return drawn_N


def corpus_shares(weights: CorpusWeights, counts: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each corpus source; a source without sequences leaves its share to the other sources.

    Args:
        weights: the relative frequencies.
        counts: the number of sequences of each source.

    Returns:
        Shares that sum to 1; empty if no source has sequences and a weight.
    """
    present = {name: getattr(weights, name) if counts.get(name) else 0.0 for name in ("dataset", "teacher")}
    total = sum(present.values())
    return {name: weight / total for name, weight in present.items()} if total else {}
