"""The head's projection onto the vocabulary, and losses taken on it without keeping [N, V].

A loss from a truncated teacher sees few numbers of the student's row of V logits: those of the stored, the drawn and
the realised tokens, and of all others a log-sum-exp and, if asked for, the entropy. `project` hands these to the loss,
lets autograd differentiate that small function, and spreads the result over V in the buffer that held the logits: the
others share theirs by softmax, the rest is a scatter. So any loss of these numbers gets its gradients with respect to
hidden states and weights within the forward pass.

Guarantee: value and gradients are those of autograd on the dense formula, up to rounding; under autocast that of its
dtype in the two products of the backward pass, whose results are rounded as those of any layer's backward pass are,
while the logits stay in float32. Cost: three matrix products, as for any head that is trained, one buffer of [chunk, V]
in float32 and, where realised tokens are asked for at another temperature than the loss's, 128 rows more; one
exponential an element, and nothing is computed twice. Under autocast weights and gradient go into its dtype a few
thousand columns of the vocabulary at a time, so neither is ever there as a whole.
Not taken: checkpointing (`torch.utils.checkpoint`), which computes the logits a second time in the backward pass; a
formula by hand for every divergence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.head import Head

_ROWS = 8  # positions a thread whose logits stay in its cache from one pass over them to the next
_COLUMNS = 4096  # of the vocabulary that the backward pass converts together: copies of all would double what it holds
_PIECE = 128  # positions that a loss sees together: what it needs beside the logits is at most as large as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTargets:
    """Token ids at which a loss looks; stored ids of a row are distinct but for padding, which repeats one of them."""

    ids_NK: Tensor
    padding_NK: Tensor  # bool
    draw_ids_NJ: Tensor
    token_ids_N: Tensor
    token_temperature: float  # of `Seen.token_logp_N`


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLogits:
    """What a loss sees of the student's logits; padding is -inf, and so is `others_N` where K covers V."""

    stored_NK: Tensor
    others_N: Tensor  # log-sum-exp of the logits that are not stored
    drawn_NJ: Tensor
    token_N: Tensor
    token_logp_N: Tensor  # log-probs of the realised tokens at a temperature of their own, without a gradient
    others_entropy_N: Tensor | None  # nats, of the softmax over the tokens that are not stored; None: not asked for

    def log_normaliser(self) -> Tensor:
        """Log-sum-exp over the vocabulary [N]."""
        return torch.cat([self.stored_NK, self.others_N[:, None]], -1).logsumexp(-1)


Metrics: TypeAlias = dict[str, Tensor]
Loss: TypeAlias = Callable[
    [StudentLogits, slice], tuple[Tensor, Metrics]
]  # rows of a chunk -> nats [n], sums of metrics


def project(
    head: Head,
    hidden_ND: Tensor,
    targets: LossTargets,
    loss: Loss,
    *,
    temperature: float,
    chunk: int,
    entropy: bool = False,
) -> tuple[Tensor, Metrics]:
    """Sum of the loss over N positions, differentiable in hidden states, weights and bias; and sums of its metrics.

    `chunk` positions have their logits, divided by `temperature`, in memory at once. `entropy`: the loss sees that of
    the tokens that are not stored, for two passes over V more. Autocast says how the products of the backward pass run.
    """
    metrics: Metrics = {}
    work = _Work(
        head=head,
        targets=targets,
        loss=loss,
        temperature=temperature,
        chunk=chunk,
        entropy=entropy,
        metrics=metrics,
    )
    total: Tensor = _Projected.apply(hidden_ND, head.weight_VD, head.bias_V, work)  # type: ignore[no-untyped-call]
    return total, metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    head: Head
    targets: LossTargets
    loss: Loss
    temperature: float
    chunk: int
    entropy: bool
    metrics: Metrics  # filled


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, work: _Work) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        like = [one if want else None for one, want in zip((hidden_ND, weight_VD, bias_V), wanted, strict=True)]
        sums = [None if one is None else torch.zeros_like(one, dtype=_wide(one)) for one in like]
        total = hidden_ND.new_zeros((), dtype=_wide(weight_VD))
        device, wide_VD = hidden_ND.device.type, weight_VD.to(_wide(weight_VD))
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else wide_VD.dtype
        work = replace(work, head=replace(work.head, weight_VD=wide_VD))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden_ND), work.chunk):
                places = slice(start, start + work.chunk)
                total += _chunk(work, hidden_ND[places], places, dtype, sums)
        ctx.gradients = [None if one is None else one.to(of.dtype) for one, of in zip(sums, like, strict=True)]  # type: ignore[union-attr]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # as large as the head: scaled where they lie, and let go
        return *(None if one is None else one.mul_(scale) for one in gradients), None


def _wide(one: Tensor) -> torch.dtype:
    return torch.promote_types(one.dtype, torch.float32)


def _chunk(work: _Work, hidden_ND: Tensor, places: slice, dtype: torch.dtype, sums: Sequence[Tensor | None]) -> Tensor:
    """The chunk's loss; adds its gradients to `sums` (hidden states, weights, bias), by products in `dtype`."""
    logits_NV = work.head(hidden_ND)
    bend_NV = None if work.head.softcap is None else 1 - (logits_NV / work.head.softcap).square_()
    if work.temperature != 1.0:
        logits_NV.div_(work.temperature)
    loss = _in_pieces(work, logits_NV, places.start)
    gradient_NV = logits_NV if bend_NV is None else logits_NV.mul_(bend_NV)
    of_hidden, of_weight, of_bias = sums
    if of_bias is not None:
        of_bias += gradient_NV.sum(0)
    narrow_ND, columns = hidden_ND.to(dtype), gradient_NV.shape[1] if dtype == gradient_NV.dtype else _COLUMNS
    for start in range(0, gradient_NV.shape[1], columns):
        at = slice(start, start + columns)
        part_NC = gradient_NV[:, at].to(dtype)
        if of_hidden is not None:
            _add_product(of_hidden[places], part_NC, work.head.weight_VD[at].to(dtype))
        if of_weight is not None:
            _add_product(of_weight[at], part_NC.T, narrow_ND)
    return loss


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices to `sums`, which may be of a wider dtype."""
    if sums.dtype == left.dtype:
        sums.addmm_(left, right)
    else:
        sums += left @ right


def _in_pieces(work: _Work, logits_NV: Tensor, first: int) -> Tensor:
    """The chunk's loss, and its metrics to `work`; the logits give way to its gradient."""
    total = logits_NV.new_zeros(())
    for start in range(0, len(logits_NV), _PIECE):
        piece_NV = logits_NV[start : start + _PIECE]
        loss, metrics = _spread(work, piece_NV, slice(first + start, first + start + len(piece_NV)))
        total += loss
        for name, value in metrics.items():
            work.metrics[name] = work.metrics.get(name, 0.0) + value.detach()
    return total


def _spread(work: _Work, logits_NV: Tensor, places: slice) -> tuple[Tensor, Metrics]:
    """The loss; the logits, over the temperature, give way to its gradient with respect to those the head gave."""
    ids_NK, draw_ids_NJ = (ids[places].long() for ids in (work.targets.ids_NK, work.targets.draw_ids_NJ))
    token_ids_N1 = work.targets.token_ids_N[places, None]
    stored_NK, drawn_NJ, token_N1 = (logits_NV.gather(-1, ids) for ids in (ids_NK, draw_ids_NJ, token_ids_N1))
    stored_NK.masked_fill_(work.targets.padding_NK[places], -torch.inf)
    token_logp_N = _token_logp(logits_NV, token_N1, sharper=work.temperature / work.targets.token_temperature)
    others = _take_others(logits_NV.scatter_(-1, ids_NK, -torch.inf), entropy=work.entropy)
    others_N, entropy_N = others.logsumexp_N, others.entropy_N
    if token_logp_N is None:
        token_logp_N = token_N1[:, 0] - torch.cat([stored_NK, others_N[:, None]], -1).logsumexp(-1)
    with torch.enable_grad():
        asked = [] if entropy_N is None else [entropy_N]
        leaves = [one.requires_grad_() for one in (stored_NK, others_N, drawn_NJ, token_N1, *asked)]
        seen = StudentLogits(
            stored_NK=stored_NK,
            others_N=others_N,
            drawn_NJ=drawn_NJ,
            token_N=token_N1[:, 0],
            token_logp_N=token_logp_N,
            others_entropy_N=entropy_N,
        )
        loss_N, metrics = work.loss(seen, places)
        loss = loss_N.sum()
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
    stored, of_others, drawn, token, *of_entropy = (None if one is None else one / work.temperature for one in found)
    _spread_others(logits_NV, others, of_others, *of_entropy)
    for ids, gradient in ((ids_NK, stored), (draw_ids_NJ, drawn), (token_ids_N1, token)):
        if gradient is not None:
            logits_NV.scatter_add_(-1, ids, gradient)
    return loss.detach(), metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """Of the softmax over the tokens that are not stored; their logits gave way to exp(logit - the largest)."""

    logsumexp_N: Tensor  # -inf where there are none
    sum_N: Tensor  # of what the logits gave way to; at least 1, in a row without others too
    entropy_N: Tensor | None


def _take_others(logits_NV: Tensor, *, entropy: bool) -> _Others:
    """One exponential an element; a few rows at a time, which stay in the processor's cache between the passes.

    As many in each block, since threads would share the sum of a row that was left over, and its last bit with it.
    """
    found = []
    for rows_NV in torch.tensor_split(logits_NV, -(-len(logits_NV) // _together(logits_NV))):
        largest_N = rows_NV.amax(-1)
        largest_N.masked_fill_(torch.isneginf(largest_N), 0.0)
        sum_N = rows_NV.sub_(largest_N[:, None]).exp_().sum(-1)
        entropy_N = torch.special.entr(rows_NV).sum(-1) if entropy else sum_N
        found.append((largest_N + sum_N.log(), sum_N.clamp_(min=1.0), entropy_N))
    logsumexp_N, sum_N, entropy_N = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _Others(logsumexp_N=logsumexp_N, sum_N=sum_N, entropy_N=sum_N.log() + entropy_N / sum_N if entropy else None)


def _spread_others(share_NV: Tensor, of: _Others, others_N: Tensor | None, entropy_N: Tensor | None = None) -> None:
    """The others' shares, times `of.sum_N`, give way to the gradient of their logits.

    The logit of a share s moves their log-sum-exp by s, and their entropy H by -s (log s + H).
    """
    weight_N = torch.zeros_like(of.sum_N) if others_N is None else others_N
    if entropy_N is None or of.entropy_N is None:
        share_NV.mul_((weight_N / of.sum_N)[:, None])
        return
    weight_N = (weight_N + entropy_N * (of.sum_N.log() - of.entropy_N.detach())) / of.sum_N
    parts = (torch.split(one, _together(share_NV)) for one in (share_NV, weight_N, entropy_N / of.sum_N))
    for rows_NV, by_N, bent_N in zip(*parts, strict=True):
        bent_NV = torch.special.entr(rows_NV).mul_(bent_N[:, None])
        rows_NV.mul_(by_N[:, None]).add_(bent_NV)


def _together(logits_NV: Tensor) -> int:
    """Rows that are taken together: few for a cache; all for a device that has none to speak of and counts launches."""
    return _ROWS * torch.get_num_threads() if logits_NV.device.type == "cpu" else len(logits_NV)


def _token_logp(logits_NV: Tensor, token_N1: Tensor, *, sharper: float) -> Tensor | None:
    """Log-probs [N] of the realised tokens from logits times `sharper`; None where that is 1 and they come for free."""
    if sharper == 1.0:
        return None
    return token_N1[:, 0] * sharper - (logits_NV * sharper).logsumexp(-1)
