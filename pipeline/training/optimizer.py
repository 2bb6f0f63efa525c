"""The optimizer: AdamW, its parameters, and the weights that decay."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from transformers.trainer_pt_utils import get_parameter_names

from pipeline.core.types import Precision
from pipeline.models.language_model import Model
from pipeline.runtime.config import AboveZero, Count, Fraction, NonNegative, Positive

UNTRACKED = ("save_steps", "keep_rounds")  # Keys that cannot change what training writes
# Patterns of the names of weights that do not decay, as in transformers.Trainer.
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerParams:
    """AdamW and its schedule; names as in transformers."""

    learning_rate: AboveZero
    lr_scheduler_type: Literal["constant_with_warmup", "linear", "cosine"]
    warmup_steps: Count
    """Steps in which the learning rate rises from 0 to `learning_rate`."""
    decay_steps: Positive
    """Global step at which linear and cosine reach 0, so that appended rounds do not change earlier ones."""
    adam_beta1: Fraction
    adam_beta2: Fraction
    adam_epsilon: AboveZero
    """Added to the root of the second moment, so that weights with smaller gradients take smaller steps."""
    weight_decay: NonNegative
    """Decay of all weights except biases and weights of norms, as in transformers."""
    max_grad_norm: AboveZero
    """Maximum norm of the gradient; larger gradients are scaled down to it."""
    precision: Precision
    """Precision (autocast) of the student's layers; weights, logits and optimizer stay in float32."""
    ema_decay: Annotated[float, Interval(ge=0, le=0.9999)] | None
    """Decay of a moving average of the weights over steps, which is then the model of the round; null: no average."""
    disable_dropout: bool
    """Train without dropout, as TRL does; with dropout, staleness grows (0.5 nats per token for T5's rate of 0.1)."""
    gradient_checkpointing: bool
    """Compute activations again in the backward pass: much less memory and about a third more time."""
    save_steps: Positive
    """Steps between checkpoints, which is how many steps a killed process can lose."""
    save_dtype: Literal["bfloat16", "float32"]
    """Number format of a round's model on disk; training goes on from float32 weights in the optimizer file."""
    keep_rounds: Positive | None
    """Newest optimizers to keep, outside DVC's cache; a missing one is trained again; null: all."""

    def identity(self) -> dict[str, object]:
        """Return the keys that can change what training writes."""
        return {name: value for name, value in asdict(self).items() if name not in UNTRACKED}


def make_optimizer(model: Model, p: OptimizerParams) -> torch.optim.AdamW:
    """Return AdamW over the weights of a model that train."""
    betas = (p.adam_beta1, p.adam_beta2)
    groups = _groups(model, p.weight_decay)
    return torch.optim.AdamW(groups, lr=p.learning_rate, betas=betas, eps=p.adam_epsilon, fused=True)


def _groups(model: Model, weight_decay: float) -> list[dict[str, Any]]:
    """Return the weights to train in two groups: those that decay, and those that do not."""
    decaying = set(get_parameter_names(model, [torch.nn.LayerNorm], _NO_DECAY))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    decay = [weight for name, weight in trained.items() if name in decaying]
    no_decay = [weight for name, weight in trained.items() if name not in decaying]
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
