"""Losses of a few logits, taken chunk by chunk, against autograd through all of them in float64."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.losses import fused_linear as module
from pipeline.losses.fused_linear import FusedLinearLoss, LossTargets, Metrics, PositionLoss, StudentLogits
from pipeline.models.head import Head

POSITIONS, WIDTH, VOCAB = 7, 5, 23


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def make_head(*, bias: bool = False, softcap: float | None = None, dtype: torch.dtype = torch.float64) -> Head:
    bias_V = random(VOCAB, seed=2, dtype=dtype) if bias else None
    return Head(weight_VD=random(VOCAB, WIDTH, seed=1, dtype=dtype), bias_V=bias_V, softcap=softcap)


def make_targets() -> LossTargets:
    """Rows of 0 to 6 stored ids, the others padding that repeats the first; draws that repeat; any tokens."""
    generator = torch.Generator().manual_seed(3)
    ids_NK = torch.stack([torch.randperm(VOCAB, generator=generator)[:6] for _ in range(POSITIONS)])
    padding_NK = torch.arange(6) > torch.arange(POSITIONS)[:, None]
    return LossTargets(
        ids_NK=torch.where(padding_NK, ids_NK[:, :1], ids_NK),
        padding_NK=padding_NK,
        tail_sample_ids_NJ=torch.randint(VOCAB, (POSITIONS, 4), generator=generator),
        token_ids_N=torch.randint(VOCAB, (POSITIONS,), generator=generator),
        token_temperature=0.7,
    )


def everything(seen: StudentLogits, places: slice) -> tuple[Tensor, Metrics]:
    """A loss in which every number counts, each position in a way of its own."""
    weight_N = torch.arange(POSITIONS, dtype=seen.token_N.dtype)[places] + 1
    logz_N1 = seen.log_normaliser()[:, None]
    stored_N = (seen.stored_NK - logz_N1).exp().square().sum(-1)
    drawn_N = (seen.tail_sample_NJ - logz_N1).sin().sum(-1)
    loss_N = weight_N * (stored_N + drawn_N + (seen.unstored_N - logz_N1[:, 0]).exp() + seen.token_N.cos())
    if seen.unstored_entropy_N is not None:
        loss_N = loss_N + seen.unstored_entropy_N.square() * seen.unstored_N.sin()
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
    return FusedLinearLoss(head=head, targets=targets, loss=loss, temperature=temperature, chunk=chunk, entropy=entropy)


def densely(
    head: Head, hidden_ND: Tensor, targets: LossTargets, temperature: float, *, entropy: bool = False
) -> Tensor:
    """The same loss from the whole [N, V]."""
    logits_NV = head(hidden_ND) / temperature
    stored_NK = logits_NV.gather(-1, targets.ids_NK).masked_fill(targets.padding_NK, -torch.inf)
    seen = StudentLogits(
        stored_NK=stored_NK,
        unstored_N=logits_NV.scatter(-1, targets.ids_NK, -torch.inf).logsumexp(-1),
        tail_sample_NJ=logits_NV.gather(-1, targets.tail_sample_ids_NJ),
        token_N=logits_NV.gather(-1, targets.token_ids_N[:, None])[:, 0],
        token_logp_N=torch.zeros(POSITIONS),
        unstored_entropy_N=_entropy(logits_NV.scatter(-1, targets.ids_NK, -torch.inf)) if entropy else None,
    )
    return everything(seen, slice(None))[0].sum()


def _entropy(logits_NV: Tensor) -> Tensor:
    logp_NV = logits_NV.log_softmax(-1)
    return -(logp_NV.exp() * logp_NV.masked_fill(torch.isneginf(logp_NV), 0.0)).sum(-1)


def gradients(loss: Tensor, *leaves: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [one for one in leaves if one is not None]))


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
    for found, one in zip(gradients(value, *leaves), gradients(expected, *leaves), strict=True):
        assert (found - one).abs().max() < 1e-11


def test_float32_is_within_1e_6_of_the_dense_formula() -> None:
    head, hidden_ND, targets = make_head(), random(POSITIONS, WIDTH, seed=0), make_targets()
    single = replace(head, weight_VD=head.weight_VD.detach().float().requires_grad_())
    low_ND = hidden_ND.detach().float().requires_grad_()
    tokens = sum(range(1, POSITIONS + 1))
    value, _ = fused(single, targets)(low_ND)
    expected = gradients(densely(head, hidden_ND, targets, 1.0) / tokens, hidden_ND, head.weight_VD)
    for found, one in zip(gradients(value / tokens, low_ND, single.weight_VD), expected, strict=True):
        assert (found - one).abs().max() < 1e-6


def test_weights_in_bfloat16_get_gradients_in_bfloat16_from_float32_logits() -> None:
    head, targets = make_head(dtype=torch.bfloat16), make_targets()
    hidden_ND = random(POSITIONS, WIDTH, seed=0, dtype=torch.bfloat16)
    wide = Head(weight_VD=head.weight_VD.detach().float().requires_grad_(), bias_V=None, softcap=None)
    value, _ = fused(head, targets)(hidden_ND)
    expected = densely(wide, hidden_ND.float(), targets, 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (found,), (one,) = gradients(value, head.weight_VD), gradients(expected, wide.weight_VD)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, one.bfloat16()) or (found - one).abs().max() < 2**-8 * one.abs().max()


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
    for found, one in zip(
        gradients(value, low_ND, single.weight_VD), gradients(exact, low_ND, single.weight_VD), strict=True
    ):
        assert found.dtype == torch.float32
        assert 0 < (found - one).abs().max() < 2**-7 * one.abs().max()


def test_all_stored_leaves_nothing_to_the_others() -> None:
    targets = replace(make_targets(), ids_NK=torch.arange(VOCAB).expand(POSITIONS, -1))
    targets = replace(targets, padding_NK=torch.zeros(POSITIONS, VOCAB, dtype=torch.bool))
    head, hidden_ND = make_head(), random(POSITIONS, WIDTH, seed=0)
    value, _ = fused(head, targets)(hidden_ND)
    expected = densely(head, hidden_ND, targets, 1.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert gradients(value, hidden_ND)[0].isfinite().all()


def test_a_frozen_side_gets_no_gradient() -> None:
    head, targets, hidden_ND = make_head(), make_targets(), random(POSITIONS, WIDTH, seed=0)
    frozen = replace(head, weight_VD=head.weight_VD.detach())
    both, _ = fused(head, targets)(hidden_ND)
    one, _ = fused(frozen, targets)(hidden_ND)
    assert torch.equal(*[gradients(value, hidden_ND)[0] for value in (both, one)])
    with torch.no_grad():
        value, _ = fused(head, targets)(hidden_ND)
    assert not value.requires_grad
    assert value.item() == pytest.approx(both.item(), rel=1e-12)


def test_a_frozen_head_keeps_no_sum_of_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under an adapter: the third matrix product and a tensor as large as the head stay away."""
    head, seen = make_head(bias=True), []
    frozen = replace(head, weight_VD=head.weight_VD.detach(), bias_V=head.bias_V.detach())  # type: ignore[union-attr]
    whole = module._add_gradients

    def spy(*arguments: Any) -> None:
        seen.append([one is not None for one in arguments[-1]])
        whole(*arguments)

    monkeypatch.setattr(module, "_add_gradients", spy)
    for one in (frozen, head):
        fused(one, make_targets(), chunk=100)(random(POSITIONS, WIDTH, seed=0))
    assert seen == [[True, False, False], [True, True, True]]


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
            sizes.extend(one.numel() for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, Tensor))
            return result

    with Watch():
        value, _ = fused(head, targets, chunk=1)(hidden_ND)
        value.backward()  # type: ignore[no-untyped-call]
    assert max(sizes) == VOCAB * WIDTH < POSITIONS * VOCAB


def test_chunks_cover_every_position_once() -> None:
    seen: list[slice] = []

    def loss(one: StudentLogits, places: slice) -> tuple[Tensor, Metrics]:
        seen.append(places)
        return one.token_N, {}

    fused(make_head(), make_targets(), loss=loss)(random(POSITIONS, WIDTH, seed=0))
    assert seen[0].start == 0
    assert all(one.stop == other.start for one, other in pairwise(seen))
    assert seen[-1].stop >= POSITIONS


def test_rows_sum_alike_however_many_threads_take_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits_NV, threads = torch.randn(65, 49152), torch.get_num_threads()
    try:
        found = []
        for count, rows in ((1, 8), (2, 8), (2, 16), (2, 65)):  # 65 in eights or sixteens leaves one
            torch.set_num_threads(count)
            monkeypatch.setattr(module, "_ROWS_PER_THREAD", rows)
            found.append(module._unstored_softmax(logits_NV.clone(), entropy=True))
    finally:
        torch.set_num_threads(threads)
    for one, other in pairwise(found):
        assert torch.equal(one.sum_N, other.sum_N)
        assert torch.equal(one.logsumexp_N, other.logsumexp_N)
