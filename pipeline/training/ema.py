"""A moving average of the weights that are trained.

At a constant learning rate the last steps leave noise in the weights, the more of it the fewer prompts a step sees; a
mean over steps takes it out without slowing them down, as a falling rate does. The optimizer goes on from the weights
themselves, so a checkpoint has both.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; exponential as in Tarvainen
and Valpola, "Mean teachers are better role models", 2017, but divided by the sum of its coefficients, so that the first
weights count as little as they would in a long run. Cost: a copy of the model, one pass over it a step.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel:
    """Of the steps to come; its `module` is the averaged model."""
    return AveragedModel(model, multi_avg_fn=_towards(decay))


def _towards(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    @torch.no_grad()
    def move(averaged: _Tensors, current: _Tensors, before: Tensor | int) -> None:
        share = (1 - decay) / (1 - decay ** (int(before) + 1))  # of the newest among all
        torch._foreach_lerp_(averaged, current, share)

    return move


def saved(model: torch.nn.Module, average: AveragedModel) -> dict[str, Any]:
    """What a checkpoint of the averaged model lacks: the weights themselves, and how many steps the average is of."""
    return {
        "weights": {name: one.detach() for name, one in model.named_parameters() if one.requires_grad},
        "averaged_steps": int(average.n_averaged),
    }


@torch.no_grad()
def restore(model: torch.nn.Module, average: AveragedModel | None, before: Mapping[str, Any]) -> None:
    """Go on from `before`, where `model` and `average` are a checkpoint's averaged model."""
    for name, one in model.named_parameters():
        if one.requires_grad:
            one.copy_(before["weights"][name])
    if average is not None:
        average.n_averaged.fill_(before["averaged_steps"])
