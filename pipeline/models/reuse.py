"""Say which parts of what a model has read may serve again: several completions of a prompt, padding, later tokens.

A cache of keys and values may be selected, padded and continued. The states of a recurrence need not: many classes
change them in place, start again from zero, or read the padding. So `load_model` tries each model (`probe`), and
records here what holds. Everything else is read alone, in one plain pass per sequence, which is always right.

* Guarantee: no number depends on a prompt's other completions, on padding, or on the lengths of a batch's other rows.
* Cost of the plain way: each completion reads its prompt again, and each sampled token the whole sequence.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipeline.models.architectures import text_config
from pipeline.runtime.errors import ModelError

_ATTRIBUTE = "stillroom_reuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What may be reused of a model's states."""

    shares: bool  # completions go on from the cache of a batch of padded prompts
    trains: bool  # the same in training, where gradients pass through the cache
    decodes: bool  # rows of a batch grow token by token
    longest: int | None  # tokens of a sequence beyond which it is read alone; None is no limit

    def fits(self, tokens: int) -> bool:
        """Return whether a sequence of this many tokens may share a batch and a cache."""
        return self.longest is None or tokens <= self.longest


EVERYTHING = Reuse(shares=True, trains=True, decodes=True, longest=None)


def reuse_of(model: Any) -> Reuse:
    """Return what may be reused of a model; everything, unless `record` says otherwise."""
    reuse: Reuse = getattr(model, _ATTRIBUTE, EVERYTHING)
    return reuse


def record(model: Any, reuse: Reuse) -> None:
    """Record on a model what may be reused of it."""
    setattr(model, _ATTRIBUTE, reuse)


@cache
def say_once(line: str) -> None:
    """Print a line on stderr, the first time in this process."""
    print(line, file=sys.stderr, flush=True)


def longest_reusable(config: Any) -> int | None:
    """Return the tokens up to which a token's state depends only on the tokens before it, or None without a limit.

    * Longrope and dynamic rotary scaling turn all positions of a sequence by factors that depend on its length.
    * BigBird's sparse attention begins at a length.
    * An expert of a Switch Transformer drops the tokens that it has no room for.
    """
    limits = [params["limit"] for params in _scaled_rotations(config)]
    if getattr(config, "attention_type", None) == "block_sparse":
        limits.append((5 + 2 * config.num_random_blocks) * config.block_size)
    if config.model_type == "switch_transformers":
        limits.append(config.expert_capacity)
    if getattr(config, "moe_eval_capacity_token_fraction", 1.0) < 1:  # NLLB-MoE: the room depends on the whole batch
        limits.append(0)
    return min(limits, default=None)


@contextmanager
def lengths_forgotten(model: Any) -> Iterator[None]:
    """Let a pass over a long sequence depend on that sequence alone, and leave nothing behind for the next.

    Dynamic rotary scaling keeps the factors of the longest sequence, and BigBird stays with full attention after a
    short sequence.

    Raises:
        ModelError: When layers of BigBird would be run again, in the backward pass, with another kind of attention.
    """
    if reuse_of(model).longest is None:
        yield
        return
    say_once(f"{model.config.model_type}: sequences of more than {reuse_of(model).longest} tokens are read alone")
    if getattr(model.config, "attention_type", None) == "block_sparse":
        if model.training and model.is_activation_checkpointing:
            expected, remedy = "optimizer.gradient_checkpointing false with sparse attention", "fix params.yaml"
            raise ModelError(model.config.model_type, expected=expected, got="true", remedy=remedy)
        model.get_encoder().set_attention_type("block_sparse")
    _forget_rotations(model)
    yield
    _forget_rotations(model)


def _forget_rotations(model: Any) -> None:
    for module in model.modules():
        names = [*vars(module), *module._buffers] if hasattr(module, "original_max_seq_len") else []
        for name in names:
            if name.endswith("original_inv_freq"):
                buffer = getattr(module, name.replace("original_", ""))
                setattr(module, name.replace("original_", ""), getattr(module, name).to(buffer.device).clone())
            elif name.endswith("max_seq_len_cached"):
                setattr(module, name, module.original_max_seq_len)


def _scaled_rotations(config: Any) -> list[dict[str, Any]]:
    """Return the rotary parameters that depend on a sequence's length, each with its limit in tokens."""
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}
    rotations = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    lengths = {"longrope": "original_max_position_embeddings"}
    return [
        params | {"limit": params.get(lengths.get(params["rope_type"], ""), text.max_position_embeddings)}
        for params in rotations
        if params.get("rope_type") in {"longrope", "dynamic"}
    ]
