"""Language models behind one face: the only module that shifts, pads or knows transformers' model classes.

`completion_hidden` gives the hidden state that predicts each completion token, for many sequences end to end, and
`head_of` the projection onto the vocabulary that both models share. A model reads each distinct prompt once (`read`),
whatever the number of its completions, which then go on from its keys and values (`go_on`): with prompts longer than
completions that is most of the work. Prompts are padded on the left, completions on the right, and masks come from
lengths, never from token ids (many tokenizers use one id for pad and eos).

Under autocast the body runs in bf16; the head always runs in fp32, because bf16 logits alone differ by .05 nats.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, Cache

from pipeline.errors import DataError, ModelError
from pipeline.head import Head
from pipeline.records import Precision
from pipeline.shared import distinct_prompts

_UNKNOWN_SCALES = ("logit_scale", "logits_scaling")  # Cohere, Granite
Model: TypeAlias = Any  # a transformers causal language model


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if precision == "bfloat16" or (precision == "auto" and native):
        return torch.bfloat16
    return torch.float32


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Mixed precision on the current device; does nothing for float32."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def load_model(path: Path, *, dtype: torch.dtype = torch.float32, to_train: bool = False) -> Model:
    """A causal language model from a local directory, on the device, in eval mode.

    `to_train` picks eager attention on a CPU, where the backward pass of the fused one takes 10 % of a step longer.
    """
    attention = "eager" if to_train and device().type == "cpu" else None
    transformers.utils.logging.disable_progress_bar()  # a second's work
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(path, expected="a causal language model", got=first, remedy="run `make repro`") from error
    if missing := found["missing_keys"]:  # transformers gives them random values and a warning
        got = f"none for {len(missing)} of them, such as {min(missing)}"
        raise ModelError(path, expected="a value for every weight", got=got, remedy="run `make repro`")
    return model.to(device()).eval()


def context_length(path: Path) -> int:
    """Tokens that the model's positions reach."""
    length: int = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", 1 << 30)
    return length


def check_context(limit: int, longest: int, *, where: str) -> None:
    """A DataError when prompt and completion together do not fit the model's context."""
    if longest > limit:
        raise DataError(
            where,
            expected=f"at most {limit} tokens of prompt and completion (the model's context)",
            got=f"{longest}",
            remedy="lower task.max_prompt_tokens or max_new_tokens",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """G prompts that a model has read, padded on the left to P."""

    last_GD: Tensor  # the hidden state that predicts each prompt's first completion token
    mask_GP: Tensor  # 1 at the prompts' tokens
    cache: Cache  # keys and values


def completion_hidden(model: Model, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Tensor:
    """Hidden states [N, D] that predict the completion tokens, sequences end to end in the given order."""
    distinct, rows_B = distinct_prompts(prompts)
    return go_on(model, read(model, distinct), rows_B, completions)


def read(model: Model, prompts: Sequence[list[int]]) -> Prefix:
    """One pass over G prompts."""
    ids_GP, mask_GP = (one.to(model.device) for one in left_padded(prompts))
    result = model.base_model(
        input_ids=ids_GP, attention_mask=mask_GP, position_ids=positions_of(mask_GP), use_cache=True
    )
    return Prefix(last_GD=result.last_hidden_state[:, -1], mask_GP=mask_GP, cache=result.past_key_values)


def go_on(model: Model, prefix: Prefix, rows_B: Sequence[int], completions: Sequence[list[int]]) -> Tensor:
    """Hidden states [N, D] of B completions, each after the prompt at its row of the prefix, which stays as it is."""
    rows = torch.tensor(rows_B, device=model.device)
    lengths = [len(completion) for completion in completions]
    first_BD, width = prefix.last_GD[rows], max(lengths) - 1  # nobody asks what follows the last token
    if width < 1:
        return first_BD
    ids_BT = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, completion in zip(ids_BT, completions, strict=True):
        row[: len(completion) - 1] = torch.tensor(completion[:-1])
    mask_BP = prefix.mask_GP[rows]
    mask_BS = torch.cat([mask_BP, mask_BP.new_ones(ids_BT.shape)], -1)
    rest_BTD = model.base_model(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BS,
        position_ids=positions_of(mask_BS)[:, -width:],
        past_key_values=_select(prefix.cache, rows),
        use_cache=True,
    ).last_hidden_state
    hidden_BTD = torch.cat([first_BD[:, None], rest_BTD], 1)
    return torch.cat([hidden_TD[:length] for hidden_TD, length in zip(hidden_BTD, lengths, strict=True)])


def left_padded(prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids [G, P] and the mask of the prompts' own."""
    width = max(map(len, prompts))
    ids_GP = torch.zeros(len(prompts), width, dtype=torch.long)
    mask_GP = torch.zeros_like(ids_GP)
    for row, mask, ids in zip(ids_GP, mask_GP, prompts, strict=True):
        row[width - len(ids) :] = torch.tensor(ids)
        mask[width - len(ids) :] = 1
    return ids_GP, mask_GP


def positions_of(mask_BS: Tensor) -> Tensor:
    """Each token's place in its sequence."""
    return (mask_BS.cumsum(-1) - 1).clamp(min=0)


def _select(cache: Cache, rows: Tensor) -> Cache:
    """Some rows of a cache, in a cache of their own."""
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    taken.batch_select_indices(rows)
    return taken


def head_of(model: Model, vocab: int) -> Head:
    """The projection onto the first `vocab` ids."""
    head = model.get_output_embeddings()
    for name in _UNKNOWN_SCALES:
        if (scale := getattr(model.config, name, None)) not in {None, 1.0}:
            raise ModelError(
                model.config.model_type,
                expected="logits that are a linear map of the hidden state, soft-capped or not",
                got=f"{name} = {scale}",
                remedy="use another family; head_of in pipeline/lm.py is where to add this one",
            )
    weight_VD, bias_V = (one if one is None or len(one) == vocab else one[:vocab] for one in (head.weight, head.bias))
    return Head(weight_VD=weight_VD, bias_V=bias_V, softcap=getattr(model.config, "final_logit_softcapping", None))


def check_vocabulary(model: Model, vocab: int, *, where: Path) -> None:
    """A ModelError when the tokenizer has ids that the model's head does not."""
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < vocab:
        raise ModelError(
            where, expected=f"a head of at least {vocab} tokens", got=f"{rows}", remedy="use the model's own tokenizer"
        )
