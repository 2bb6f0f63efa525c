"""Every loss as it is trained, compared with autograd through all logits in float64.

`pipeline.losses.fused_linear.FusedLinearLoss` passes a loss a few numbers of the logits. Here the same losses get the
same numbers from a plain tensor [N, V] that autograd differentiates, as the loss would be written without a fused head.
"""

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import objective as module
from pipeline.losses.batch import LossTargets, TeacherRows
from pipeline.losses.divergences import DIVERGENCES
from pipeline.losses.fused_linear import Metrics, PositionLoss, StudentLogits
from pipeline.losses.objective import DIVERGENCES_OF, ObjectiveParams, TailEstimator, batch_loss
from pipeline.models.head import Head
from tests.loss_cases import many_rows, objective, random_logits

VOCAB, WIDTH, POSITIONS = 30, 6, 5
ESTIMATORS: tuple[TailEstimator, ...] = ("bucket", "tail_samples", "tail_mean", "residual", "sampled")
HEADS = {"plain": (False, None), "bias": (True, None), "capped": (True, 2.0)}
pytestmark = pytest.mark.parametrize(
    ("name", "estimator"),
    [
        case
        for case in itertools.product(DIVERGENCES, ESTIMATORS)
        if case[0] in DIVERGENCES_OF.get(case[1], DIVERGENCES)
    ],
)


def densely(
    hidden_ND: Tensor,
    *,
    head: Head,
    targets: LossTargets,
    loss: PositionLoss,
    temperature: float,
    token_temperature: float,
    entropy: bool,
) -> tuple[Tensor, Metrics]:
    """Compute a `FusedLinearLoss` by its definition; the parameters are its fields."""
    logits_NV = head(hidden_ND)
    at_T_NV, token_ids_N1 = logits_NV / temperature, targets.token_ids_N[:, None]
    others_NV = at_T_NV.scatter(-1, targets.ids_NK, -torch.inf)
    share_NV = others_NV.softmax(-1)
    logp_NV = (logits_NV / token_temperature).log_softmax(-1)
    student = StudentLogits(
        stored_NK=at_T_NV.gather(-1, targets.ids_NK).masked_fill(torch.isneginf(targets.logp_NK), -torch.inf),
        unstored_N=others_NV.logsumexp(-1),
        tail_sample_NJ=at_T_NV.gather(-1, targets.tail_sample_ids_NJ),
        token_N=at_T_NV.gather(-1, token_ids_N1)[:, 0],
        token_logp_N=logp_NV.gather(-1, token_ids_N1)[:, 0].detach(),
        unstored_entropy_N=torch.special.entr(share_NV).sum(-1) if entropy else None,
    )
    loss_N, metrics = loss(student, slice(None))
    return loss_N.sum(), metrics


def in_double(rows: TeacherRows, advantage_N: Tensor) -> tuple[TeacherRows, TeacherRows]:
    """Return the rows with these advantages, in float32 and in float64."""
    rows = replace(rows, advantage_N=advantage_N)
    values = {field.name: getattr(rows, field.name) for field in fields(rows)}
    wide = {
        key: value.double() for key, value in values.items() if isinstance(value, Tensor) and value.is_floating_point()
    }
    return rows, replace(rows, **wide)


def gradients(
    p: ObjectiveParams, rows: TeacherRows, leaves: tuple[Tensor | None, ...], softcap: float | None
) -> tuple[float, list[Tensor]]:
    """Return the mean over positions and its gradients by hidden states, weights and bias."""
    hidden_ND, weight_VD, bias_V = (None if leaf is None else leaf.clone().requires_grad_() for leaf in leaves)
    assert hidden_ND is not None
    assert weight_VD is not None
    head = Head(weight_VD=weight_VD, bias_V=bias_V, softcap=softcap)
    loss = batch_loss(p, head, hidden_ND, rows, behaviour_temperature=1.0)[0] / len(hidden_ND)
    asked = [leaf for leaf in (hidden_ND, weight_VD, bias_V) if leaf is not None]
    return loss.item(), list(torch.autograd.grad(loss, asked))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("alpha", "cross_entropy"), [(1.0, 0.0), (1.0, 0.4), (0.3, 0.0), (0.3, 0.4)])
def test_float32_in_chunks_equals_autograd_to_1e_6(
    name: str, estimator: str, alpha: float, cross_entropy: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cover every divergence, tail estimator, weight of the reward and weight of the cross-entropy."""
    rows, _ = many_rows(VOCAB, POSITIONS)
    count, (biased, softcap) = len(rows.token_ids_N), HEADS[kind]
    single, double = in_double(rows, random_logits(1, count, seed=8)[0].float())
    hidden_ND, weight_VD = random_logits(count, WIDTH, seed=5), random_logits(VOCAB, WIDTH, seed=6, spread=0.5)
    leaves = (hidden_ND, weight_VD, random_logits(1, VOCAB, seed=7)[0] if biased else None)
    rounded = tuple(None if leaf is None else leaf.float() for leaf in leaves)
    p = objective(name, tail_estimator=estimator, alpha=alpha, cross_entropy=cross_entropy, chunk_tokens=7)
    value, fused = gradients(p, single, rounded, softcap)
    chunks: list[int] = []

    def dense_loss(*, chunk: int, **settings: Any) -> Callable[[Tensor], tuple[Tensor, Metrics]]:
        chunks.append(chunk)
        return partial(densely, **settings)

    monkeypatch.setattr(module, "FusedLinearLoss", dense_loss)
    expected, autograd = gradients(
        p, double, tuple(None if leaf is None else leaf.double() for leaf in rounded), softcap
    )
    assert chunks == [7]
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for gradient, other in zip(fused, autograd, strict=True):
        assert other.abs().max() > 1e-3
        assert (gradient - other).abs().max() < 1e-6
