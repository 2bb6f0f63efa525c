"""A model's passes over tokens: where an encoder-decoder differs from a decoder alone, and nothing else knows.

A decoder reads a prompt itself, padded on the left. An encoder-decoder has its encoder read it, padded on the right
(learnt positions count from the left), and its decoder reads one start token, the model's own, instead. From there on
the two are alike: the decoder has read something (`DecoderInputs`), keeps keys and values of it, and goes on with
completion tokens. Keys and values of the cross-attention lie in the same cache, computed once a prompt.

Guarantee: T more tokens give the states and logits that one plain forward pass gives, in float32 up to rounding.
Cost: a decoder's pass over the start token apart from the completion's. Not taken: labels and transformers' own shift,
which would compute the logits of every position, and the encoder's part of the cache for every completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from pipeline.models.architectures import head_scale, positions

Model: TypeAlias = Any  # a transformers model with a head on its vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOutput:
    """What an encoder made of G prompts, padded on the right to P."""

    states_GPD: Tensor
    mask_GP: Tensor  # 1 at the prompts' tokens

    def take(self, rows: Tensor) -> "EncoderOutput":
        """Some of the prompts, in the given order."""
        return EncoderOutput(states_GPD=self.states_GPD[rows], mask_GP=self.mask_GP[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderInputs:
    """What a decoder reads of G prompts before it writes."""

    ids_GS: Tensor
    mask_GS: Tensor
    cache: Cache | None
    source: EncoderOutput | None  # None for a decoder that reads its prompts itself


def decoder_inputs(model: Model, prompts: Sequence[list[int]], *, multiple: int = 1) -> DecoderInputs:
    """The prompts, or the start token after the encoder's pass over them; `multiple` is that of `padded`."""
    if not model.config.is_encoder_decoder:
        ids_GS, mask_GS = (one.to(model.device) for one in padded(prompts, left=True, multiple=multiple))
        return DecoderInputs(ids_GS=ids_GS, mask_GS=mask_GS, cache=None, source=None)
    aligned = padded(prompts, left=False, multiple=multiple, most=max_padded_length(model))
    ids_GP, mask_GP = (one.to(model.device) for one in aligned)
    states_GPD = model.get_encoder()(input_ids=ids_GP, attention_mask=mask_GP).last_hidden_state
    start_G1 = torch.full((len(prompts), 1), model.config.decoder_start_token_id, device=model.device)
    return DecoderInputs(
        ids_GS=start_G1,
        mask_GS=torch.ones_like(start_G1),
        cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        source=EncoderOutput(states_GPD=states_GPD, mask_GP=mask_GP),
    )


def hidden(
    model: Model,
    ids_BT: Tensor,
    mask_BS: Tensor,
    cache: Cache | None,
    source: EncoderOutput | None,
    *,
    keep: bool = True,
) -> tuple[Tensor, Cache]:
    """The states [B, T, D] that the head projects for T more tokens, and the cache that holds them, if to `keep`.

    `mask_BS` covers what the decoder has read and the T tokens.
    """
    read = {"attention_mask": mask_BS, "past_key_values": cache, "use_cache": keep}
    if source is None:
        result = model.base_model(input_ids=ids_BT, position_ids=_positions(mask_BS, ids_BT), **read)
    else:
        seen = {"encoder_hidden_states": source.states_GPD, "encoder_attention_mask": source.mask_GP}
        result = model.get_decoder()(input_ids=ids_BT, **seen, **read)
    scale = head_scale(model.config)
    states_BTD = result.last_hidden_state
    return states_BTD if scale == 1.0 else states_BTD * scale, result.past_key_values


def logits(
    model: Model, ids_BT: Tensor, mask_BS: Tensor, cache: Cache | None, source: EncoderOutput | None
) -> tuple[Tensor, Cache]:
    """The model's own logits [B, V] of what follows T more tokens, and the cache that holds them."""
    read = {"past_key_values": cache, "use_cache": True}
    if source is None:
        positions_BT = _positions(mask_BS, ids_BT)
        result = model(input_ids=ids_BT, attention_mask=mask_BS, position_ids=positions_BT, logits_to_keep=1, **read)
    else:
        result = model(
            decoder_input_ids=ids_BT,
            decoder_attention_mask=mask_BS,
            encoder_outputs=BaseModelOutput(last_hidden_state=source.states_GPD),
            attention_mask=source.mask_GP,
            **read,
        )
    return result.logits[:, -1], result.past_key_values


def max_padded_length(model: Model) -> int | None:
    """How many places there are for tokens and padding alike; None where padding takes none or places have no end.

    An encoder-decoder counts its learnt positions itself. A decoder is told them, and its padding stands on the place
    of the token beside it.
    """
    return positions(model.config) if model.config.is_encoder_decoder else None


def padded(
    sequences: Sequence[list[int]], *, left: bool, multiple: int = 1, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids [B, S], zeros beside them, and the mask of the sequences' own.

    S is a multiple of `multiple`, or `most` if that is less.
    """
    width = -(-max(map(len, sequences)) // multiple) * multiple
    width = min(width, most) if most else width
    ids_BS = torch.zeros(len(sequences), width, dtype=torch.long)
    mask_BS = torch.zeros_like(ids_BS)
    for row, mask, ids in zip(ids_BS, mask_BS, sequences, strict=True):
        own = slice(width - len(ids), width) if left else slice(len(ids))
        row[own] = torch.tensor(ids)
        mask[own] = 1
    return ids_BS, mask_BS


def _positions(mask_BS: Tensor, ids_BT: Tensor) -> Tensor:
    """Places [B, T] of the last T tokens in their sequences."""
    return (mask_BS.cumsum(-1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
