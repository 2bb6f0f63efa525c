"""A uniform interface to causal and encoder-decoder models: loading, hidden states, decoding, and the LM head.

`completion_hidden` returns the hidden states that predict the completion tokens of many sequences, end to end, and
`head_of` returns the projection onto the vocabulary that teacher and student share. `Decoding` writes completions token
by token.

* Guarantee: these logits are those of one plain pass over each sequence. `load_model` tries each model (`probe`), reads
  alone what cannot be shared (`reuse`), and refuses a model whose head `head_of` does not reproduce.
* Under autocast the body runs in bfloat16. Logits are always float32; in bfloat16 they alone would be off by 0.05 nats.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from transformers import AutoConfig

from pipeline.core.types import Precision
from pipeline.models import forward, lora
from pipeline.models.architectures import auto_class
from pipeline.models.completions import PromptCache, completion_hidden, forward_completions, prefill
from pipeline.models.decoding import Decoding
from pipeline.models.head import check_vocabulary, head_of
from pipeline.models.probe import probe
from pipeline.models.round_trip import wrong_keys
from pipeline.runtime.errors import ModelError

__all__ = [
    "Decoding",
    "Model",
    "PromptCache",
    "autocast",
    "check_vocabulary",
    "completion_hidden",
    "device",
    "disable_dropout",
    "forward_completions",
    "head_of",
    "load_model",
    "prefill",
    "resolve_dtype",
    "save_model",
]

Model: TypeAlias = forward.Model
_SCALED_IN_EVAL = "moe_token_dropout"  # of NLLB-MoE, whose experts' outputs are multiplied by 1 minus this in eval mode


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_dtype(precision: Precision) -> torch.dtype:
    """Return the number format of a precision; `auto` is bfloat16 where the hardware multiplies it natively."""
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else torch.float32


def autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context of mixed precision on the current device; it does nothing for float32."""
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def load_model(
    path: Path, *, dtype: torch.dtype = torch.float32, to_train: bool = False, base: Path | None = None
) -> Model:
    """Load a language model from a model directory onto the device, in eval mode.

    Args:
        path: The directory of a model, or of an adapter, which is merged into its base.
        dtype: Number format of the weights.
        to_train: Keep an adapter separate, with the base in its stored number format. Use eager attention on a CPU,
            where the backward pass of fused attention makes a step 10 % slower, if it computes the same. Let a
            tied embedding have sparse gradients (docs/decisions/012-sparse-embedding-gradients.md).
        base: The directory of an adapter's base; None is the directory that the adapter names.

    Raises:
        ModelError: When files are missing or damaged, a weight is missing, or the architecture is not supported.
    """
    is_adapter = lora.is_adapter(path)
    source = base if base and is_adapter else lora.base_of(path)
    transformers.utils.logging.disable_progress_bar()  # loading takes about a second
    try:
        model, info = auto_class(AutoConfig.from_pretrained(source)).from_pretrained(
            source, dtype="auto" if is_adapter and to_train else dtype, output_loading_info=True
        )
        if is_adapter:
            model = lora.load_adapter(model, path, to_train=to_train)
    except ModelError:
        raise
    except Exception as error:  # transformers raises exceptions of any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(path, expected="a language model", got=reason, remedy="run `make repro`") from error
    if finding := wrong_keys(info):
        raise ModelError(path, expected="the weights of its configuration", got=finding, remedy="run `make repro`")
    model = model.to(device()).eval()
    _check_start_token(model, path)
    probe(model, path, to_train=to_train)
    if to_train:
        _sparse_if_tied(model)
    return model


def _sparse_if_tied(model: Model) -> None:
    """Let a tied embedding have gradients at the rows of its tokens only, which autograd adds to the head's gradient.

    The sum is the same, and two mostly empty matrices of the vocabulary's size are saved each time tokens are read.
    """
    head = model.get_output_embeddings().weight
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module.weight is head:
            module.sparse = True


def save_model(model: Model, folder: Path) -> None:
    """Write a model directory, or the directory of the adapter if the model has a separate adapter."""
    if lora.has_adapter(model):
        lora.save(model, folder)
    else:
        model.save_pretrained(folder)


def disable_dropout(model: Model) -> None:
    """Make a model in training mode compute what it computes in eval mode.

    Architectures keep their rates in modules or in attributes, all of them with "drop" in the name. Mixtures of experts
    compute something else in training: noise around the router, room for fewer tokens, outputs that are not scaled.
    """
    for module in model.modules():
        names = set(vars(module))
        if {"expert_capacity", _SCALED_IN_EVAL} & names or any("jitter" in name for name in names):
            module.eval()
        for name in names - {_SCALED_IN_EVAL}:
            if "drop" in name and isinstance(getattr(module, name), float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def _check_start_token(model: Model, path: Path) -> None:
    if not model.config.is_encoder_decoder or getattr(model.config, "decoder_start_token_id", None) is not None:
        return
    # `generate` starts with the same tokens.
    starts = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    model.config.decoder_start_token_id = next((token for token in starts if token is not None), None)
    if model.config.decoder_start_token_id is None:
        expected, remedy = "the token that a decoder starts with", "set decoder_start_token_id in its config.json"
        raise ModelError(path, expected=expected, got="none", remedy=f"{remedy} (T5: the id of <pad>)")
