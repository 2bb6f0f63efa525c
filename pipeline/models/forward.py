"""Run forward passes: the only module that knows how an encoder-decoder differs from a decoder.

A decoder reads the prompt itself, padded on the left. In an encoder-decoder the encoder reads the prompt, padded on the
right because learnt positions count from the left, and the decoder reads one start token instead. From there on both
kinds are alike: the decoder has read its inputs (`DecoderInputs`), caches their keys and values, and goes on with
completion tokens. The cache also holds the keys and values of the cross-attention, computed once per prompt.

Shapes: G prompts, B sequences, P prompt tokens, S tokens that the decoder reads, T more tokens, D width, V vocabulary.

* Guarantee: T more tokens have the hidden states and logits of one plain forward pass, in float32 up to rounding, for
  the models of which `probe` says so. `plain_states` and `plain_logits` are that pass, for every model.
* Cost: a separate pass over the start token of an encoder-decoder.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from pipeline.models.architectures import head_scale, positions

Model: TypeAlias = Any  # a transformers model with an LM head


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOutput:
    """The encoder's states of G prompts, padded on the right to P tokens."""

    states_GPD: Tensor
    mask_GP: Tensor  # 1 at the prompts' tokens

    def select(self, rows: Tensor) -> "EncoderOutput":
        """Return these rows, in this order."""
        return EncoderOutput(states_GPD=self.states_GPD[rows], mask_GP=self.mask_GP[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """The inputs of one pass of a decoder over T more tokens of B sequences."""

    ids_BT: Tensor  # the tokens to read
    mask_BS: Tensor  # 1 at every token that the decoder attends to: the tokens in the cache, and these T tokens
    cache: Cache | None  # keys and values of the tokens before
    encoder: EncoderOutput | None  # of each row's prompt; None for a decoder that reads its prompts itself


def decoder_inputs(model: Model, prompts: Sequence[list[int]], *, multiple: int = 1) -> DecoderInputs:
    """Return the decoder's inputs for G prompts before any completion token, after the pass of an encoder over them.

    The prompts are padded to a multiple of `multiple` tokens, as in `padded`.
    """
    if not model.config.is_encoder_decoder:
        ids_GS, mask_GS = (tensor.to(model.device) for tensor in padded(prompts, left=True, multiple=multiple))
        return DecoderInputs(ids_BT=ids_GS, mask_BS=mask_GS, cache=None, encoder=None)
    batch = padded(prompts, left=False, multiple=multiple, longest=max_padded_length(model))
    ids_GP, mask_GP = (tensor.to(model.device) for tensor in batch)
    states_GPD = model.get_encoder()(input_ids=ids_GP, attention_mask=mask_GP).last_hidden_state
    start_G1 = torch.full((len(prompts), 1), model.config.decoder_start_token_id, device=model.device)
    return DecoderInputs(
        ids_BT=start_G1,
        mask_BS=torch.ones_like(start_G1),
        cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        encoder=EncoderOutput(states_GPD=states_GPD, mask_GP=mask_GP),
    )


def hidden_states(model: Model, inputs: DecoderInputs, *, use_cache: bool = True) -> tuple[Tensor, Cache | None]:
    """Return the hidden states of T more tokens, as the LM head takes them, and the cache after these tokens.

    Args:
        model: The model.
        inputs: The tokens, and what the model has read before.
        use_cache: False returns no new keys and values.

    Returns:
        States [B, T, D], and the cache.
    """
    body = _body(model)
    options = {"attention_mask": inputs.mask_BS, _cache_name(body): inputs.cache, "use_cache": use_cache}
    if inputs.encoder is None:
        result = body(input_ids=inputs.ids_BT, **_positions_for(body, inputs), **options)
    else:
        source = {"encoder_hidden_states": inputs.encoder.states_GPD, "encoder_attention_mask": inputs.encoder.mask_GP}
        result = body(input_ids=inputs.ids_BT, **source, **options)
    scale = head_scale(model.config)
    states_BTD = result.last_hidden_state
    return states_BTD if scale == 1.0 else states_BTD * scale, result[_cache_name(body)] if use_cache else None


def next_logits(model: Model, inputs: DecoderInputs) -> tuple[Tensor, Cache]:
    """Return the model's own logits [B, V] after T more tokens, and the cache; arguments as in `hidden_states`."""
    options: dict[str, Any] = {_cache_name(model): inputs.cache, "use_cache": True}
    if inputs.encoder is None:
        options |= _positions_for(model, inputs)
        if "logits_to_keep" in _arguments(model):
            options["logits_to_keep"] = 1
        result = model(input_ids=inputs.ids_BT, attention_mask=inputs.mask_BS, **options)
    else:
        source = BaseModelOutput(last_hidden_state=inputs.encoder.states_GPD)
        options |= {"encoder_outputs": source, "attention_mask": inputs.encoder.mask_GP}
        result = model(decoder_input_ids=inputs.ids_BT, decoder_attention_mask=inputs.mask_BS, **options)
    return result.logits[:, -1], result[_cache_name(model)]


def _body(model: Model) -> Any:
    """Return the module whose last hidden states the head takes."""
    bodies = () if model.config.is_encoder_decoder else (model.base_model,)
    bodies += (model.get_decoder(), getattr(model, "model", None))
    return next(body for body in bodies if body is not model)  # Llama 4 calls itself its base model and its decoder


def plain_states(model: Model, prompt: list[int], completion: list[int]) -> Tensor:
    """Return the hidden states [T, D] that predict a completion, from one pass without a cache over this sequence.

    A decoder reads the last token too: where positions depend on a sequence's length, it belongs to the sequence.
    """
    read = completion[:-1] if model.config.is_encoder_decoder else completion  # the start token has a position too
    first, ids_1S, source = _plain_inputs(model, prompt, read)
    body = _body(model)
    if source:
        source = {"encoder_hidden_states": model.get_encoder()(**source).last_hidden_state}
    states_1SD = body(input_ids=ids_1S, **source, **_without_cache(body)).last_hidden_state
    scale = head_scale(model.config)
    states_TD: Tensor = states_1SD[0, first : first + len(completion)]
    return states_TD if scale == 1.0 else states_TD * scale


def plain_logits(model: Model, prompt: list[int], completion: list[int]) -> Tensor:
    """Return the model's own logits [T + 1, V] before and after each token of a completion, from one plain pass."""
    first, ids_1S, source = _plain_inputs(model, prompt, completion)
    names = {"decoder_input_ids": ids_1S} if source else {"input_ids": ids_1S}
    logits_SV: Tensor = model(**source, **names, **_without_cache(model)).logits[0]
    return logits_SV[first:]


def _plain_inputs(model: Model, prompt: list[int], completion: list[int]) -> tuple[int, Tensor, dict[str, Tensor]]:
    """Return the position that predicts the first completion token, the decoder's tokens, and the encoder's if any."""
    if not model.config.is_encoder_decoder:
        return len(prompt) - 1, torch.tensor([prompt + completion], device=model.device), {}
    ids_1S = torch.tensor([[model.config.decoder_start_token_id, *completion]], device=model.device)
    return 0, ids_1S, {"input_ids": torch.tensor([prompt], device=model.device)}


def _without_cache(module: Model) -> dict[str, bool]:
    return {"use_cache": False} if {"use_cache", "kwargs"} & _arguments(module) else {}


def _positions_for(module: Model, inputs: DecoderInputs) -> dict[str, Tensor]:
    """Return the positions as an argument, for a class that takes them; ALiBi and recurrences know none."""
    return {"position_ids": _positions(inputs)} if "position_ids" in _arguments(module) else {}


def _cache_name(module: Any) -> str:
    """Return the name of a class's cache, as an argument and in what it returns."""
    return "cache_params" if "cache_params" in _arguments(module) else "past_key_values"


def _arguments(module: Any) -> set[str]:
    """Return the names that a module's forward pass takes."""
    return set(inspect.signature(module.forward).parameters)


def max_padded_length(model: Model) -> int | None:
    """Return the largest number of tokens with padding, or None where padding needs no positions.

    An encoder-decoder counts its learnt positions itself, padding included. A decoder gets its position ids, where
    padding shares the position of the token beside it.
    """
    return positions(model.config) if model.config.is_encoder_decoder else None


def padded(
    sequences: Sequence[list[int]], *, left: bool, multiple: int = 1, longest: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor of token ids [B, S], padded with zeros, and their mask [B, S].

    Args:
        sequences: Token ids of each sequence.
        left: Whether the padding is on the left.
        multiple: S is the smallest multiple of this number that holds every sequence, or `longest` if less.
        longest: The largest S.
    """
    width = -(-max(map(len, sequences)) // multiple) * multiple
    width = min(width, longest) if longest else width
    ids_BS = torch.zeros(len(sequences), width, dtype=torch.long)
    mask_BS = torch.zeros_like(ids_BS)
    for row, mask, ids in zip(ids_BS, mask_BS, sequences, strict=True):
        tokens = slice(width - len(ids), width) if left else slice(len(ids))
        row[tokens] = torch.tensor(ids)
        mask[tokens] = 1
    return ids_BS, mask_BS


def _positions(inputs: DecoderInputs) -> Tensor:
    """Return the positions [B, T] of the tokens to read."""
    return (inputs.mask_BS.cumsum(-1) - 1).clamp(min=0)[:, -inputs.ids_BT.shape[1] :]
