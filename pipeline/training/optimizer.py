"""AdamW: its parameters, and the weights that it decays."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor
from transformers.trainer_pt_utils import get_parameter_names

from pipeline.core.types import Precision
from pipeline.models.language_model import Model
from pipeline.runtime.config import AboveZero, Count, Fraction, NonNegative, Positive

# The names of weights that do not decay, as in transformers.Trainer.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerParams:
    """AdamW and its schedule; names as in transformers."""

    learning_rate: AboveZero
    lr_scheduler_type: Literal["constant_with_warmup", "linear", "cosine"]
    warmup_steps: Count
    """Steps from 0 to learning_rate."""
    decay_steps: Positive
    """Step at which linear and cosine reach 0; fixed here, so that appended rounds do not change earlier ones."""
    adam_beta1: Fraction
    adam_beta2: Fraction
    weight_decay: NonNegative
    """Of all weights but biases and norms', as in transformers."""
    max_grad_norm: AboveZero
    """Gradients are clipped to this norm."""
    precision: Precision
    """Of the student's body and of the backward pass through its head (autocast); weights, logits and optimizer stay
    in float32."""
    ema_decay: Annotated[float, Interval(ge=0, le=0.9999)] | None
    """Of a moving average of the weights over the steps, which then is what a round's model is; null: none."""
    disable_dropout: bool
    """Train without the model's own dropout and an adapter's, as TRL does. With it the student that learns is not the
    one that wrote the rollouts, by half a nat a token for T5's rate of .1, which counts as staleness."""
    gradient_checkpointing: bool
    """Keep what goes into each layer instead of all that happens in it, and compute the rest again: much less memory,
    about a third more time, and a prompt is read again for each of its completions."""
    save_steps: Positive
    """Steps between checkpoints: what a kill can cost."""


def make_optimizer(model: Model, p: OptimizerParams) -> torch.optim.AdamW:
    """Return AdamW over the weights of a model that train."""
    betas = (p.adam_beta1, p.adam_beta2)
    return torch.optim.AdamW(_groups(model, p.weight_decay), lr=p.learning_rate, betas=betas, fused=True)


def _groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """The weights to train, those that decay and those that do not."""
    names = set(get_parameter_names(model, [torch.nn.LayerNorm], _NO_DECAY))
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[name in names].append(weight)
    return [{"params": of, "weight_decay": weight_decay if decays else 0.0} for decays, of in groups.items() if of]
