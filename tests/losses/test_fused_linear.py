"""Losses of a few logits, computed in chunks and compared with autograd through all logits in float64."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import fused_linear as module
from pipeline.losses.batch import LossTargets
from pipeline.losses.fused_linear import FusedLinearLoss, Metrics, PositionLoss, StudentLogits
from pipeline.models.head import Head

POSITIONS, WIDTH, VOCAB = 7, 5, 23


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def make_head(*, bias: bool = False, softcap: float | None = None, dtype: torch.dtype = torch.float64) -> Head:
    bias_V = random(VOCAB, seed=2, dtype=dtype) if bias else None
    return Head(weight_VD=random(VOCAB, WIDTH, seed=1, dtype=dtype), bias_V=bias_V, softcap=softcap)


def make_targets() -> LossTargets:
    """Return rows of 0 to 6 stored ids with padding, tail samples that repeat, and any tokens."""
    generator = torch.Generator().manual_seed(3)
    ids_NK = torch.stack([torch.randperm(VOCAB, generator=generator)[:6] for _ in range(POSITIONS)])
    padding_NK = torch.arange(6) > torch.arange(POSITIONS)[:, None]
    return LossTargets(
        ids_NK=torch.where(padding_NK, ids_NK[:, :1], ids_NK),
        logp_NK=torch.zeros(POSITIONS, 6).masked_fill(padding_NK, -torch.inf),
        tail_sample_ids_NJ=torch.randint(VOCAB, (POSITIONS, 4), generator=generator),
        token_ids_N=torch.randint(VOCAB, (POSITIONS,), generator=generator),
    )


def everything(student: StudentLogits, span: slice) -> tuple[Tensor, Metrics]:
    """Return a loss that depends on every number, differently at each position."""
    weight_N = torch.arange(POSITIONS, dtype=student.token_N.dtype)[span] + 1
    logz_N1 = student.log_normaliser()[:, None]
    stored_N = (student.stored_NK - logz_N1).exp().square().sum(-1)
    sampled_N = (student.tail_sample_NJ - logz_N1).sin().sum(-1)
    loss_N = weight_N * (stored_N + sampled_N + (student.unstored_N - logz_N1[:, 0]).exp() + student.token_N.cos())
    if student.unstored_entropy_N is not None:
        loss_N = loss_N + student.unstored_entropy_N.square() * student.unstored_N.sin()
    return loss_N, {"sum": loss_N.sum()}


def fused(
    head: Head,
    targets: LossTargets,
    *,
    loss: PositionLoss = everything,
    temperature: float = 1.0,
    chunk: int = 3,
    entropy: bool = False,
) -> FusedLinearLoss:
    return FusedLinearLoss(
        head=head,
        targets=targets,
        loss=loss,
        temperature=temperature,
        token_temperature=0.7,
        chunk=chunk,
        entropy=entropy,
    )


def densely(
    head: Head, hidden_ND: Tensor, targets: LossTargets, temperature: float, *, entropy: bool = False
) -> Tensor:
    """Return the same loss from all logits [N, V]."""
    logits_NV = head(hidden_ND) / temperature
    stored_NK = logits_NV.gather(-1, targets.ids_NK).masked_fill(torch.isneginf(targets.logp_NK), -torch.inf)
    student = StudentLogits(
        stored_NK=stored_NK,
        unstored_N=logits_NV.scatter(-1, targets.ids_NK, -torch.inf).logsumexp(-1),
        tail_sample_NJ=logits_NV.gather(-1, targets.tail_sample_ids_NJ),
        token_N=logits_NV.gather(-1, targets.token_ids_N[:, None])[:, 0],
        token_logp_N=torch.zeros(POSITIONS),
        unstored_entropy_N=_entropy(logits_NV.scatter(-1, targets.ids_NK, -torch.inf)) if entropy else None,
    )
    return everything(student, slice(None))[0].sum()


def _entropy(logits_NV: Tensor) -> Tensor:
    logp_NV = logits_NV.log_softmax(-1)
    return -(logp_NV.exp() * logp_NV.masked_fill(torch.isneginf(logp_NV), 0.0)).sum(-1)


def gradients(loss: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None]))


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
def test_equals_autograd_on_the_dense_formula(
    bias: bool, softcap: float | None, temperature: float, chunk: int, entropy: bool
) -> None:
    head, hidden_ND, targets = make_head(bias=bias, softcap=softcap), random(POSITIONS, WIDTH, seed=0), make_targets()
    leaves = (hidden_ND, head.weight_VD, head.bias_V)
    expected = densely(head, hidden_ND, targets, temperature, entropy=entropy)
    value, metrics = fused(head, targets, temperature=temperature, chunk=chunk, entropy=entropy)(hidden_ND)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert metrics["sum"].item() == pytest.approx(expected.item(), rel=1e-12)
    for fused_gradient, dense_gradient in zip(gradients(value, *leaves), gradients(expected, *leaves), strict=True):
        assert (fused_gradient - dense_gradient).abs().max() < 1e-11


def test_float32_is_within_1e_6_of_the_dense_formula() -> None:
    head, hidden_ND, targets = make_head(), random(POSITIONS, WIDTH, seed=0), make_targets()
    single = replace(head, weight_VD=head.weight_VD.detach().float().requires_grad_())
    low_ND = hidden_ND.detach().float().requires_grad_()
    tokens = sum(range(1, POSITIONS + 1))
    value, _ = fused(single, targets)(low_ND)
    expected = gradients(densely(head, hidden_ND, targets, 1.0) / tokens, hidden_ND, head.weight_VD)
    for fused_gradient, dense_gradient in zip(
        gradients(value / tokens, low_ND, single.weight_VD), expected, strict=True
    ):
        assert (fused_gradient - dense_gradient).abs().max() < 1e-6


def test_weights_in_bfloat16_get_gradients_in_bfloat16_from_float32_logits() -> None:
    head, targets = make_head(dtype=torch.bfloat16), make_targets()
    hidden_ND = random(POSITIONS, WIDTH, seed=0, dtype=torch.bfloat16)
    wide = Head(weight_VD=head.weight_VD.detach().float().requires_grad_(), bias_V=None, softcap=None)
    value, _ = fused(head, targets)(hidden_ND)
    expected = densely(wide, hidden_ND.float(), targets, 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient_VD,), (wide_gradient_VD,) = gradients(value, head.weight_VD), gradients(expected, wide.weight_VD)
    assert gradient_VD.dtype == torch.bfloat16
    assert (
        torch.equal(gradient_VD, wide_gradient_VD.bfloat16())
        or (gradient_VD - wide_gradient_VD).abs().max() < 2**-8 * wide_gradient_VD.abs().max()
    )


@pytest.mark.parametrize("columns", [4096, 7])  # all of the vocabulary at once; in pieces
def test_autocast_rounds_the_products_of_the_backward_pass_alone(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.losses.fused_linear._COLUMNS", columns)
    head, hidden_ND, targets = make_head(), random(POSITIONS, WIDTH, seed=0), make_targets()
    single = replace(head, weight_VD=head.weight_VD.detach().float().requires_grad_())
    low_ND = hidden_ND.detach().float().requires_grad_()
    exact, _ = fused(single, targets)(low_ND)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = fused(single, targets)(low_ND)
    assert torch.equal(value, exact)
    for rounded_gradient, exact_gradient in zip(
        gradients(value, low_ND, single.weight_VD), gradients(exact, low_ND, single.weight_VD), strict=True
    ):
        assert rounded_gradient.dtype == torch.float32
        assert 0 < (rounded_gradient - exact_gradient).abs().max() < 2**-7 * exact_gradient.abs().max()


def test_all_tokens_may_be_stored() -> None:
    targets = replace(make_targets(), ids_NK=torch.arange(VOCAB).expand(POSITIONS, -1))
    targets = replace(targets, logp_NK=torch.zeros(POSITIONS, VOCAB))
    head, hidden_ND = make_head(), random(POSITIONS, WIDTH, seed=0)
    value, _ = fused(head, targets)(hidden_ND)
    expected = densely(head, hidden_ND, targets, 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert gradients(value, hidden_ND)[0].isfinite().all()


def test_a_frozen_input_gets_no_gradient() -> None:
    head, targets, hidden_ND = make_head(), make_targets(), random(POSITIONS, WIDTH, seed=0)
    frozen = replace(head, weight_VD=head.weight_VD.detach())
    both, _ = fused(head, targets)(hidden_ND)
    frozen_value, _ = fused(frozen, targets)(hidden_ND)
    assert torch.equal(*[gradients(value, hidden_ND)[0] for value in (both, frozen_value)])
    with torch.no_grad():
        value, _ = fused(head, targets)(hidden_ND)
    assert not value.requires_grad
    assert value.item() == pytest.approx(both.item(), rel=1e-12)


def test_a_frozen_head_keeps_no_sum_of_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a LoRA adapter the third matrix product and a tensor as large as the head are not needed."""
    head, needed = make_head(bias=True), []
    frozen = replace(head, weight_VD=head.weight_VD.detach(), bias_V=head.bias_V.detach())  # type: ignore[union-attr]
    whole = module._add_gradients

    def spy(*arguments: Any) -> None:
        needed.append([total is not None for total in arguments[-1]])
        whole(*arguments)

    monkeypatch.setattr(module, "_add_gradients", spy)
    for each_head in (frozen, head):
        fused(each_head, make_targets(), chunk=100)(random(POSITIONS, WIDTH, seed=0))
    assert needed == [[True, False, False], [True, True, True]]


def test_a_scaled_loss_has_scaled_gradients() -> None:
    head, targets, hidden_ND = make_head(), make_targets(), random(POSITIONS, WIDTH, seed=0)
    plain, third = (gradients(fused(head, targets)(hidden_ND)[0] / by, head.weight_VD)[0] for by in (1, 3))
    assert torch.allclose(plain / 3, third, rtol=1e-12)


def test_no_tensor_of_all_positions_by_the_vocabulary_is_made() -> None:
    head, targets, hidden_ND = make_head(), make_targets(), random(POSITIONS, WIDTH, seed=0)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(leaf.numel() for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor))
            return result

    with Watch():
        value, _ = fused(head, targets, chunk=1)(hidden_ND)
        value.backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == VOCAB * WIDTH < POSITIONS * VOCAB


def test_chunks_cover_every_position_once() -> None:
    spans: list[slice] = []

    def loss(student: StudentLogits, span: slice) -> tuple[Tensor, Metrics]:
        spans.append(span)
        return student.token_N, {}

    fused(make_head(), make_targets(), loss=loss)(random(POSITIONS, WIDTH, seed=0))
    assert spans[0].start == 0
    assert all(span.stop == other.start for span, other in pairwise(spans))
    assert spans[-1].stop >= POSITIONS


def test_sums_do_not_depend_on_threads_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits_NV, threads = torch.randn(65, 49152), torch.get_num_threads()
    try:
        results = []
        for count, rows in ((1, 8), (2, 8), (2, 16), (2, 65)):  # 65 in eights or sixteens leaves one
            torch.set_num_threads(count)
            monkeypatch.setattr(module, "_ROWS_PER_THREAD", rows)
            results.append(module._unstored_softmax(logits_NV.clone(), entropy=True))
    finally:
        torch.set_num_threads(threads)
    for first, other in pairwise(results):
        assert torch.equal(first.sum_N, other.sum_N)
        assert torch.equal(first.logsumexp_N, other.logsumexp_N)
