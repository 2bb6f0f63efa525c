"""Exponential moving average (EMA) of the weights that are trained.

At a constant learning rate the last steps leave noise in the weights, and more noise if a step sees fewer prompts. An
average over steps removes the noise without slowing training down, as a decaying learning rate would. The optimizer
continues from the raw weights, so a checkpoint stores both.

* Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; exponential weights as in
  Tarvainen and Valpola, "Mean teachers are better role models", 2017. Here the average is divided by the sum of its
  coefficients, so that the first weights count as little as in a long run.
* Cost: a copy of the model, and one pass over it per step.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import PARAM_LIST, AveragedModel


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel:
    """Return the moving average of a model's weights over the coming steps; `module` is the averaged model."""

    @torch.no_grad()
    def update(averaged: PARAM_LIST, current: PARAM_LIST, steps_before: Tensor | int) -> None:
        # The current weights have coefficient 1, out of the sum 1 + decay + ... + decay ** steps_before.
        share = (1 - decay) / (1 - decay ** (int(steps_before) + 1))
        torch._foreach_lerp_(averaged, current, share)

    return AveragedModel(model, multi_avg_fn=update)


def average_state(model: torch.nn.Module, average: AveragedModel) -> dict[str, Any]:
    """Return the raw weights and the number of averaged steps, which the saved averaged model does not contain."""
    return {
        "weights": trained_weights(model),
        "averaged_steps": int(average.n_averaged),
    }


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model that are trained, by name."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def set_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set the weights of a model that are trained."""
    for name, weight in trained_weights(model).items():
        weight.copy_(weights[name])


def restore_average(model: torch.nn.Module, average: AveragedModel | None, state: Mapping[str, Any]) -> None:
    """Set a model to its raw weights, and its average to the number of averaged steps.

    Args:
        model: the averaged model of a checkpoint.
        average: its moving average, with the same weights; None if training continues without one.
        state: the checkpoint's `average_state`.
    """
    set_weights(model, state["weights"])
    if average is not None:
        average.n_averaged.fill_(state["averaged_steps"])
