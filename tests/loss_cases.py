"""Losses of small rows beside the divergence over the whole vocabulary, for tests of objective and supports."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.collation import collate_scores
from pipeline.core.types import Rollout, Scores, TokenSequence
from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.losses.objective import ObjectiveParams, batch_loss
from pipeline.models.head import Head
from pipeline.scoring.scorer import TruncationParams
from pipeline.scoring.truncate import truncate
from pipeline.store.ragged import join_scores
from tests.factories import objective_params
from tests.scores import with_stats

TEMPERATURES = (1.0, 2.0)
Pair = tuple[Rollout, Scores]


def objective(name: str = "forward_kl", **changes: Any) -> ObjectiveParams:
    """Return the objective with the other-token bucket; `changes` sets other fields."""
    divergence = DivergenceParams(name=name, beta=0.3, skew=0.2, normalise=False)  # type: ignore[arg-type]
    fields = {"divergence": divergence, "tail_estimator": "bucket", "tail_samples_scale": 0.0}
    return objective_params(**(fields | changes))


def support(**changes: Any) -> TruncationParams:
    settings = {"threshold": 0.1, "max_entries": 50, "samples_per_tail": 0.0, "min_tail": 0.0}
    return TruncationParams(**(settings | {"temperatures": TEMPERATURES} | changes))


def random_logits(positions: int, vocab: int, *, seed: int, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(positions, vocab, generator=generator, dtype=torch.float64) * spread


def pair(
    teacher_TV: Tensor,
    tokens: list[int],
    p: TruncationParams,
    *,
    support_ids: Sequence[list[int]] = (),
    tail_sample_ids: Sequence[list[int]] = (),
    behaviour: Sequence[float] | None = None,
    name: str = "a",
) -> Pair:
    """A rollout of these tokens and its scores; the author wrote them with certainty unless told otherwise."""
    rollout = Rollout(
        rollout_id=name,
        prompt_id=name,
        source="student",
        policy="",
        prompt_ids=[0],
        completion_ids=tokens,
        behaviour_logp=list(behaviour or [0.0] * len(tokens)),
        support_ids=list(support_ids),
        tail_sample_ids=list(tail_sample_ids),
        tail_offset=[],
        finished=False,
        text="",
    )
    asked = TokenSequence(
        prompt_ids=[0],
        completion_ids=tokens,
        support_ids=list(support_ids),
        tail_sample_ids=list(tail_sample_ids),
        tail_offset=[0.0] * len(tokens),
    )
    return rollout, truncate(teacher_TV, asked, p, seed=0)


def teacher_rows(pairs: Sequence[Pair], temperature: float = 1.0) -> TeacherRows:
    whole = join_scores([scores for _, scores in pairs], pairs[0][1].stats.tail_NH.shape[1])
    made = collate_scores(
        [rollout for rollout, _ in pairs], whole, temperature=temperature, column=TEMPERATURES.index(temperature)
    )
    return made.rows.to(torch.device("cpu"))


def identity(logits_NV: Tensor) -> Head:
    """A head for students whose hidden states are their logits."""
    return Head(weight_VD=torch.eye(logits_NV.shape[-1], dtype=logits_NV.dtype), bias_V=None, softcap=None)


def loss_and_gradient(p: ObjectiveParams, logits_NV: Tensor, rows: TeacherRows) -> tuple[float, Tensor]:
    hidden_ND = logits_NV.clone().requires_grad_()
    loss, _ = batch_loss(p, identity(logits_NV), hidden_ND, rows, behaviour_temperature=1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden_ND.grad is not None
    return loss.item(), hidden_ND.grad


def dense(p: ObjectiveParams, teacher_NV: Tensor, student_NV: Tensor) -> tuple[float, Tensor]:
    """Value and gradient of the divergence over the whole vocabulary."""
    logits_NV = student_NV.clone().double().requires_grad_()
    logp_NV, logq_NV = ((logits / p.temperature).log_softmax(-1) for logits in (teacher_NV.double(), logits_NV))
    value = DIVERGENCES[p.divergence.name](p.divergence)(logp_NV, logq_NV).sum()
    value.backward()
    assert logits_NV.grad is not None
    return value.item(), logits_NV.grad


def many_rows(vocab: int, positions: int) -> tuple[TeacherRows, Tensor]:
    """Rows of all kinds: peaked and flat, with and without union, draws and G, by the student, the teacher, nobody."""
    teacher_TV = random_logits(positions, vocab, seed=3, spread=1.0)
    teacher_TV[::2] *= 4
    tokens = torch.randint(vocab, (positions,), generator=torch.Generator().manual_seed(4)).tolist()
    pairs = []
    for index, source in enumerate(("student", "teacher", "dataset", "student")):
        behaviour = [] if source == "dataset" else [-1.0] * positions
        rollout, scores = pair(
            teacher_TV,
            tokens,
            support(threshold=0.15, samples_per_tail=6.0),
            support_ids=[[1, 2, 3]] * positions if index == 0 else [],
            behaviour=behaviour,
        )
        g_N = np.where(np.arange(positions) % 2, -5.0, np.nan).astype(np.float32)
        pairs.append((replace(rollout, source=source, behaviour_logp=behaviour), with_stats(scores, tail_mean_N=g_N)))  # type: ignore[arg-type]
    return teacher_rows(pairs), random_logits(4 * positions, vocab, seed=5)
