"""Run forward passes: the only module that knows how an encoder-decoder differs from a decoder.

A decoder reads the prompt itself, padded on the left. In an encoder-decoder the encoder reads the prompt, padded on the
right because learnt positions count from the left, and the decoder reads one start token instead. From there on both
kinds are alike: the decoder has read its inputs (`DecoderInputs`), caches their keys and values, and goes on with
completion tokens. The cache also holds the keys and values of the cross-attention, computed once per prompt.

Shapes: G prompts, B sequences, P prompt tokens, S tokens that the decoder reads, T more tokens, D width, V vocabulary.

* Guarantee: T more tokens have the hidden states and logits of one plain forward pass, in float32 up to rounding.
* Cost: a separate pass over the start token of an encoder-decoder.
"""

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


def hidden_states(model: Model, inputs: DecoderInputs, *, use_cache: bool = True) -> tuple[Tensor, Cache]:
    """Return the hidden states of T more tokens, as the LM head takes them, and the cache after these tokens.

    Args:
        model: The model.
        inputs: The tokens, and what the model has read before.
        use_cache: False returns no new keys and values.

    Returns:
        States [B, T, D], and the cache.
    """
    options = {"attention_mask": inputs.mask_BS, "past_key_values": inputs.cache, "use_cache": use_cache}
    if inputs.encoder is None:
        result = model.base_model(input_ids=inputs.ids_BT, position_ids=_positions(inputs), **options)
    else:
        source = {"encoder_hidden_states": inputs.encoder.states_GPD, "encoder_attention_mask": inputs.encoder.mask_GP}
        result = model.get_decoder()(input_ids=inputs.ids_BT, **source, **options)
    scale = head_scale(model.config)
    states_BTD = result.last_hidden_state
    return states_BTD if scale == 1.0 else states_BTD * scale, result.past_key_values


def next_logits(model: Model, inputs: DecoderInputs) -> tuple[Tensor, Cache]:
    """Return the model's own logits [B, V] after T more tokens, and the cache; arguments as in `hidden_states`."""
    options: dict[str, Any] = {"past_key_values": inputs.cache, "use_cache": True}
    if inputs.encoder is None:
        options |= {"position_ids": _positions(inputs), "logits_to_keep": 1}
        result = model(input_ids=inputs.ids_BT, attention_mask=inputs.mask_BS, **options)
    else:
        source = BaseModelOutput(last_hidden_state=inputs.encoder.states_GPD)
        options |= {"encoder_outputs": source, "attention_mask": inputs.encoder.mask_GP}
        result = model(decoder_input_ids=inputs.ids_BT, decoder_attention_mask=inputs.mask_BS, **options)
    return result.logits[:, -1], result.past_key_values


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
