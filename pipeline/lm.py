"""Language models behind one face: the only module that shifts, pads or knows transformers' model classes.

`completion_hidden` gives the hidden state that predicts each completion token, for many sequences end to end, and
`head_logits` the fp32 logits over the vocabulary that both models share. Sequences are padded on the right and a causal
model never looks right, so no attention mask is needed and masks come from lengths, never from token ids
(many tokenizers use one id for pad and eos).

Under autocast the body runs in bf16; the head always runs in fp32, because bf16 logits alone differ by .05 nats.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.errors import DataError, ModelError
from pipeline.fingerprint import digest, file_digest

Precision: TypeAlias = Literal["auto", "bfloat16", "float32"]
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


def model_fingerprint(path: Path) -> str:
    """Identity of a model directory: its weight files and its configuration."""
    files = sorted(one for one in path.iterdir() if one.suffix in {".safetensors", ".bin"} or one.name == "config.json")
    return digest([(one.name, file_digest(one)) for one in files])


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


def completion_hidden(model: Model, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Tensor:
    """Hidden states [N, D] that predict the completion tokens, sequences end to end in the given order."""
    lengths = [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)]
    ids_BS = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, prompt, completion, length in zip(ids_BS, prompts, completions, lengths, strict=True):
        row[:length] = torch.tensor(prompt + completion)
    hidden_BSD = model.base_model(input_ids=ids_BS.to(model.device), use_cache=False).last_hidden_state
    spans = [
        hidden_D[len(prompt) - 1 : length - 1]
        for hidden_D, prompt, length in zip(hidden_BSD, prompts, lengths, strict=True)
    ]
    return torch.cat(spans)


def head_logits(model: Model, vocab: int) -> Callable[[Tensor], Tensor]:
    """A function from hidden states [N, D] to fp32 logits [N, V] over the first `vocab` ids."""
    head = model.get_output_embeddings()
    softcap = getattr(model.config, "final_logit_softcapping", None)
    for name in _UNKNOWN_SCALES:
        if (scale := getattr(model.config, name, None)) not in {None, 1.0}:
            raise ModelError(
                model.config.model_type,
                expected="logits that are a linear map of the hidden state, soft-capped or not",
                got=f"{name} = {scale}",
                remedy="use another family; head_logits in pipeline/lm.py is where to add this one",
            )

    def logits(hidden_ND: Tensor) -> Tensor:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight_VD = head.weight[:vocab].float()
            bias_V = None if head.bias is None else head.bias[:vocab].float()
            logits_NV = torch.nn.functional.linear(hidden_ND.float(), weight_VD, bias_V)
            return logits_NV if softcap is None else torch.tanh(logits_NV / softcap) * softcap

    return logits


def check_vocabulary(model: Model, vocab: int, *, where: Path) -> None:
    """A ModelError when the tokenizer has ids that the model's head does not."""
    rows = model.get_output_embeddings().weight.shape[0]
    if rows < vocab:
        raise ModelError(
            where, expected=f"a head of at least {vocab} tokens", got=f"{rows}", remedy="use the model's own tokenizer"
        )
