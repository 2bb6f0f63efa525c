"""Fused linear loss: the LM head's projection and a loss of its logits, without storing logits or gradients of [N, V].

A loss from a truncated teacher depends on few numbers of a row of V logits: the logits of stored, tail-sample and
sampled tokens, and the log-sum-exp and the entropy of the unstored tokens. `FusedLinearLoss` passes these numbers to
the loss, lets autograd differentiate the small function, and converts the result to the gradient of all V logits in
the buffer that held the logits. The gradients of hidden states and weights are therefore known after the forward pass.

* Accuracy: value and gradients equal autograd on the dense formula up to rounding. Under autocast the two matrix
  products of the backward pass run in autocast's dtype, and logits stay in float32.
* Time: three matrix products, as for any trained head, and one exponential per logit. Nothing is computed twice.
* Memory: one float32 buffer [chunk, V], and [128, V] more where the sampled tokens need log-probs at a temperature
  other than the loss temperature. Under autocast, weights and gradients are converted a few thousand columns of the
  vocabulary at a time.

Array suffixes: N positions, D hidden width, V vocabulary, K stored tokens, J tail samples, C columns of the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.losses.batch import LossTargets
from pipeline.models.head import Head

_ROWS_PER_THREAD = 8  # positions per thread with logits that stay in the cache from one pass over them to the next
_COLUMNS = 4096  # columns of the vocabulary that the backward pass converts together
_PIECE = 128  # positions that the loss function sees together; bounds its temporary memory by a few [128, V]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLogits:
    """The numbers of the student's logits, divided by the temperature, that a loss may use.

    Padding is -inf, and so is `unstored_N` where K covers V.
    """

    stored_NK: Tensor
    unstored_N: Tensor  # log-sum-exp of the unstored tokens' logits
    tail_sample_NJ: Tensor
    token_N: Tensor
    token_logp_N: Tensor  # log-probs of the sampled tokens at `FusedLinearLoss.token_temperature`, without a gradient
    unstored_entropy_N: Tensor | None  # nats, of the softmax over the unstored tokens; None unless requested

    def log_normaliser(self) -> Tensor:
        """Return the log-sum-exp over the vocabulary [N]."""
        return torch.cat([self.stored_NK, self.unstored_N[:, None]], -1).logsumexp(-1)


Metrics: TypeAlias = dict[str, Tensor]
# Takes the student's logits at a span of positions; returns nats per position, and sums of metrics over the span.
PositionLoss: TypeAlias = Callable[[StudentLogits, slice], tuple[Tensor, Metrics]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLinearLoss:
    """The sum of a loss over N positions, as a function of their hidden states."""

    head: Head
    targets: LossTargets
    loss: PositionLoss
    temperature: float  # The divisor of the logits
    token_temperature: float  # The temperature of `StudentLogits.token_logp_N`
    chunk: int  # Positions whose logits are in memory at the same time
    # Whether the loss needs the entropy of the unstored tokens, which costs two more passes over V.
    entropy: bool = False

    def __call__(self, hidden_ND: Tensor) -> tuple[Tensor, Metrics]:
        """Compute the loss.

        Args:
            hidden_ND: the hidden states of all positions.

        Returns:
            The sum of the loss over positions, differentiable in hidden states, weights and bias; and sums of the
            metrics over positions.
        """
        metrics: Metrics = {}
        inputs = (hidden_ND, self.head.weight_VD, self.head.bias_V)
        total: Tensor = _FusedLinear.apply(self, metrics, *inputs)  # type: ignore[no-untyped-call]
        return total, metrics


class _FusedLinear(torch.autograd.Function):
    """The loss with its gradients: the forward pass computes both, and the backward pass only scales the gradients."""

    @staticmethod
    def forward(ctx: Any, settings: FusedLinearLoss, metrics: Metrics, *inputs: Any) -> Tensor:
        """Return the sum of the loss; `inputs` are hidden states, weights and bias."""
        hidden_ND, weight_VD, _ = inputs
        # Gradients are summed over chunks in float32 or wider, and only for inputs that need one.
        needed = [tensor if needed else None for tensor, needed in zip(inputs, ctx.needs_input_grad[2:], strict=True)]
        sums = [None if tensor is None else torch.zeros_like(tensor, dtype=_wide(tensor)) for tensor in needed]
        total: Tensor = hidden_ND.new_zeros((), dtype=_wide(weight_VD))
        device, wide_VD = hidden_ND.device.type, weight_VD.to(_wide(weight_VD))
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else wide_VD.dtype
        settings = replace(settings, head=replace(settings.head, weight_VD=wide_VD))
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden_ND), settings.chunk):
                span = slice(start, start + settings.chunk)
                loss, gradient_NV = _logit_gradient(settings, hidden_ND[span], start, metrics)
                total += loss
                chunk_sums = [None if sums[0] is None else sums[0][span], *sums[1:]]
                _add_gradients(gradient_NV, hidden_ND[span], wide_VD, dtype, chunk_sums)
                del gradient_NV  # before the next chunk takes a buffer of the same size
        ctx.gradients = [
            None if gradient is None else gradient.to(tensor.dtype)
            for gradient, tensor in zip(sums, inputs, strict=True)
        ]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times `scale`; they are as large as the head, so they are scaled in place."""
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, *(None if gradient is None else gradient.mul_(scale) for gradient in gradients)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _logit_gradient(
    settings: FusedLinearLoss, hidden_ND: Tensor, first: int, metrics: Metrics
) -> tuple[Tensor, Tensor]:
    """Return the loss of a chunk that begins at position `first`, and the gradient [n, V] of the head's output.

    The chunk's metrics are added to `metrics`.
    """
    logits_NV = settings.head(hidden_ND)
    softcap = settings.head.softcap
    # The derivative of softcap * tanh(x / softcap) by x, from its value.
    softcap_slope_NV = None if softcap is None else 1 - (logits_NV / softcap).square_()
    if settings.temperature != 1.0:
        logits_NV.div_(settings.temperature)
    total = logits_NV.new_zeros(())
    for start in range(0, len(logits_NV), _PIECE):
        piece_NV = logits_NV[start : start + _PIECE]
        loss, piece_metrics = _piece(settings, piece_NV, slice(first + start, first + start + len(piece_NV)))
        total += loss
        for name, value in piece_metrics.items():
            metrics[name] = metrics.get(name, 0.0) + value.detach()
    return total, logits_NV if softcap_slope_NV is None else logits_NV.mul_(softcap_slope_NV)


def _add_gradients(
    gradient_NV: Tensor, hidden_ND: Tensor, weight_VD: Tensor, dtype: torch.dtype, sums: Sequence[Tensor | None]
) -> None:
    """Add the gradients of hidden states, weights and bias to `sums`, by matrix products in `dtype`."""
    hidden_sum_ND, weight_sum_VD, bias_sum_V = sums
    if bias_sum_V is not None:
        bias_sum_V += gradient_NV.sum(0)
    # In a narrower dtype gradient and weights are converted by blocks of columns: whole copies would double the memory.
    narrow_ND = hidden_ND.to(dtype)
    width = gradient_NV.shape[1] if dtype == gradient_NV.dtype else _COLUMNS
    for start in range(0, gradient_NV.shape[1], width):
        columns = slice(start, start + width)
        block_NC = gradient_NV[:, columns].to(dtype)
        if hidden_sum_ND is not None:
            _add_product(hidden_sum_ND, block_NC, weight_VD[columns].to(dtype))
        if weight_sum_VD is not None:
            _add_product(weight_sum_VD[columns], block_NC.T, narrow_ND)


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices to `sums`, which may be of a wider dtype."""
    if sums.dtype == left.dtype:
        sums.addmm_(left, right)
    else:
        sums += left @ right


def _piece(settings: FusedLinearLoss, logits_NV: Tensor, span: slice) -> tuple[Tensor, Metrics]:
    """Return the loss of a few positions, and overwrite their logits by the gradient of the undivided logits."""
    targets = settings.targets
    stored_ids_NK, tail_sample_ids_NJ = (ids[span].long() for ids in (targets.ids_NK, targets.tail_sample_ids_NJ))
    ids = (stored_ids_NK, tail_sample_ids_NJ, targets.token_ids_N[span, None])
    student, unstored = _gather(settings, logits_NV, ids, torch.isneginf(targets.logp_NK[span]))
    leaves = [student.stored_NK, student.tail_sample_NJ, student.token_N, student.unstored_N]
    leaves += [] if student.unstored_entropy_N is None else [student.unstored_entropy_N]
    with torch.enable_grad():
        loss_N, metrics = settings.loss(student, span)
        loss = loss_N.sum()
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    stored, tail_sample, token, of_unstored, *of_entropy = (gradient / settings.temperature for gradient in gradients)
    # Spread the gradients over the vocabulary: by softmax over the unstored tokens, by scattering over the rest.
    _unstored_gradient(logits_NV, unstored, of_unstored, *of_entropy)
    for token_ids, gradient in zip(ids, (stored, tail_sample, token), strict=True):
        logits_NV.scatter_add_(-1, token_ids, gradient.view(token_ids.shape))
    return loss.detach(), metrics


def _gather(
    settings: FusedLinearLoss, logits_NV: Tensor, ids: tuple[Tensor, Tensor, Tensor], padding_NK: Tensor
) -> tuple[StudentLogits, "_UnstoredSoftmax"]:
    """Gather the numbers that a loss may use, as leaves of a graph, and overwrite the logits by `_unstored_softmax`.

    Args:
        settings: temperatures, and whether the entropy is needed.
        logits_NV: the logits divided by the temperature.
        ids: ids of the stored tokens, the tail samples and the sampled token of each position.
        padding_NK: the stored tokens that are padding.
    """
    stored_NK, tail_sample_NJ, token_N1 = (logits_NV.gather(-1, token_ids) for token_ids in ids)
    stored_NK.masked_fill_(padding_NK, -torch.inf)
    # At another temperature the sampled token needs the log-sum-exp of all logits, at the same one it costs nothing.
    sharpness = settings.temperature / settings.token_temperature
    normaliser_N = None if sharpness == 1.0 else (logits_NV * sharpness).logsumexp(-1)
    unstored = _unstored_softmax(logits_NV.scatter_(-1, ids[0], -torch.inf), entropy=settings.entropy)
    if normaliser_N is None:
        normaliser_N = torch.cat([stored_NK, unstored.logsumexp_N[:, None]], -1).logsumexp(-1)
    student = StudentLogits(
        stored_NK=stored_NK.requires_grad_(),
        unstored_N=unstored.logsumexp_N.requires_grad_(),
        tail_sample_NJ=tail_sample_NJ.requires_grad_(),
        token_logp_N=token_N1[:, 0] * sharpness - normaliser_N,
        token_N=token_N1[:, 0].requires_grad_(),
        unstored_entropy_N=None if unstored.entropy_N is None else unstored.entropy_N.requires_grad_(),
    )
    return student, unstored


class _UnstoredSoftmax(NamedTuple):
    """The softmax over the unstored tokens; exp(logit - largest logit) is in the buffer that held the logits."""

    logsumexp_N: Tensor  # -inf where every token is stored
    sum_N: Tensor  # of the buffer's rows; 1 instead of 0 where every token is stored
    entropy_N: Tensor | None


def _unstored_softmax(logits_NV: Tensor, *, entropy: bool) -> _UnstoredSoftmax:
    """Overwrite the logits by exp(logit - largest logit) and return the sums of the softmax.

    A few rows are processed at a time, so that they stay in the processor's cache between the passes over them. Blocks
    have equal sizes: threads would share the sum of a single left-over row, and so change its last bit.
    """
    blocks = []
    for rows_NV in torch.tensor_split(logits_NV, -(-len(logits_NV) // _rows_per_block(logits_NV))):
        largest_N = rows_NV.amax(-1)
        largest_N.masked_fill_(torch.isneginf(largest_N), 0.0)
        sum_N = rows_NV.sub_(largest_N[:, None]).exp_().sum(-1)
        entropy_N = torch.special.entr(rows_NV).sum(-1) if entropy else sum_N
        blocks.append((largest_N + sum_N.log(), sum_N.clamp_(min=1.0), entropy_N))
    logsumexp_N, sum_N, entropy_N = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    # With x = exp(logit - largest) and S = sum x, the entropy of x / S is log S + (sum -x log x) / S.
    return _UnstoredSoftmax(logsumexp_N, sum_N, sum_N.log() + entropy_N / sum_N if entropy else None)


def _unstored_gradient(
    exp_NV: Tensor, unstored: _UnstoredSoftmax, by_logsumexp_N: Tensor, by_entropy_N: Tensor | None = None
) -> None:
    """Overwrite the buffer of `_unstored_softmax` by the gradient of the unstored tokens' logits.

    The logit of a token with share s changes the log-sum-exp by s, and the entropy H by -s (log s + H).

    Args:
        exp_NV: the buffer, s times `unstored.sum_N`.
        unstored: the sums of the buffer.
        by_logsumexp_N: the derivative of the loss by the log-sum-exp.
        by_entropy_N: the derivative of the loss by the entropy; None if the entropy was not requested.
    """
    if by_entropy_N is None or unstored.entropy_N is None:
        exp_NV.mul_((by_logsumexp_N / unstored.sum_N)[:, None])
        return
    # -s (log s + H) = (entr(x) + x (log S - H)) / S, where x = s S is the buffer.
    weight_N = (by_logsumexp_N + by_entropy_N * (unstored.sum_N.log() - unstored.entropy_N.detach())) / unstored.sum_N
    per_row = (exp_NV, weight_N, by_entropy_N / unstored.sum_N)
    blocks = (torch.split(tensor, _rows_per_block(exp_NV)) for tensor in per_row)
    for rows_NV, rows_weight_N, entropy_weight_N in zip(*blocks, strict=True):
        entropy_part_NV = torch.special.entr(rows_NV).mul_(entropy_weight_N[:, None])
        rows_NV.mul_(rows_weight_N[:, None]).add_(entropy_part_NV)


def _rows_per_block(logits_NV: Tensor) -> int:
    """Return few rows on a CPU, for its cache; all rows on an accelerator, where every kernel launch costs time."""
    return _ROWS_PER_THREAD * torch.get_num_threads() if logits_NV.device.type == "cpu" else len(logits_NV)
