"""Which source takes each place of a batch: shares that follow the global step, and how much of them is replay.

A place goes to the student with the fraction of its step (GKD's lambda), there to a replayed rollout with the replay
weight, and to the corpus else. Fractions are functions of the global step, so appended rounds change nothing before
them.

Adaptive replay follows DistiLLM (Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models",
2024): fresh outputs are taken more often when the held-out divergence rises. What is held out here are completions at
the moment they are written, before any step on them: the mean of log b(y) - log p(y) over a round's own rollouts is an
unbiased estimate of the reverse KL of the student that wrote them (at temperature 1, top_p 1), and both numbers lie
beside the rollouts already. Each earlier round kept that the fresh one does not improve on takes its share off the
weight; with one, that is replay or none.
Not taken: the evaluations as the judge. They would become dependencies of training, and another number of evaluation
prompts would train again.
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
    """A fraction that goes in a straight line from `start` at global step 0 to `end` at `steps`, and stays."""

    start: Fraction
    end: Fraction
    steps: Positive

    def at(self, step: int) -> float:
        """The fraction at a global step."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusWeights:
    """How often a place of the corpus goes to which source, relative to each other."""

    dataset: NonNegative
    """Ground truth."""
    teacher: NonNegative
    """The teacher's own completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayParams:
    """How rollouts of earlier rounds are used again; the store knows their scores, so the teacher is not asked."""

    rounds: Count
    """Earlier rounds whose rollouts a round keeps; 0: none."""
    weight: Fraction
    """Chance that a student's place is taken by one of them."""
    max_age: Positive | None
    """Optimizer steps after which a rollout is dropped, however few rounds are kept; null: no limit."""
    adaptive: bool
    """Less of it as the student's divergence stops falling."""


def fraction_at(fraction: float | Ramp, step: int) -> float:
    """A fraction of params.yaml at a global step."""
    return fraction.at(step) if isinstance(fraction, Ramp) else fraction


def replay_weight(p: ReplayParams, rollouts: Sequence[Rollout], teacher_nll_B: NDArray[Any]) -> float:
    """The chance of replay in a round with these rollouts, whose completions cost the teacher so many nats a token."""
    gap = reverse_kl_by_step(rollouts, teacher_nll_B)
    if not any(one.source == "replay" for one in rollouts):
        return 0.0
    if not p.adaptive:
        return p.weight
    fresh = gap[max(gap)]
    return p.weight * float(np.mean([fresh < before for step, before in gap.items() if step < max(gap)]))


def reverse_kl_by_step(rollouts: Sequence[Rollout], teacher_nll_B: NDArray[Any]) -> dict[int, float]:
    """For each round's own rollouts, by its first step, the mean of log b(y) - log p(y) over their tokens, in nats."""
    sums: dict[int, tuple[float, int]] = {}
    for one, nll in zip(rollouts, teacher_nll_B.tolist(), strict=True):
        if one.source in ("student", "replay"):
            gap, tokens = sums.get(one.step, (0.0, 0))
            length = len(one.completion_ids)
            sums[one.step] = gap + sum(one.behaviour_logp) + nll * length, tokens + length
    return {step: gap / max(tokens, 1) for step, (gap, tokens) in sums.items()}


def draw_kinds(uniform_N: NDArray[np.float64], shares_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of K kinds takes each of N places; `shares_NK` adds up to 1 a row, but for rounding."""
    ends_NK = shares_NK.cumsum(-1)
    kinds_N = (uniform_N[:, None] >= ends_NK).sum(-1)
    last_N = shares_NK.shape[1] - 1 - (shares_NK[:, ::-1] > 0).argmax(-1)  # rounding leads to no kind without a share
    drawn_N: NDArray[np.int64] = np.minimum(kinds_N, last_N)
    return drawn_N


def corpus_shares(weights: CorpusWeights, there: Mapping[str, int]) -> dict[str, float]:
    """Shares of the corpus' sources, of which `there` are how many; a source without any leaves its share to others."""
    given = {name: getattr(weights, name) if there.get(name) else 0.0 for name in ("dataset", "teacher")}
    total = sum(given.values())
    return {name: weight / total for name, weight in given.items()} if total else {}
