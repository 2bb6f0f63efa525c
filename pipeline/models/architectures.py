"""Facts that depend on the architecture: the class that loads a model, the scale of its head, its stacks of layers.

Guarantee: an architecture that is unknown here is never silently mishandled. If its head computes something else,
`language_model.load_model` refuses the model.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM


def auto_class(config: Any) -> Any:
    """Return the transformers class that loads a model with an LM head for a configuration."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def token_id_fields(config: Any, *, bos: int, eos: int, pad: int) -> dict[str, int]:
    """Return the fields of a configuration that hold the special token ids.

    The decoder of an encoder-decoder starts with the pad token, as T5's does.
    """
    fields = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return fields | {"decoder_start_token_id": pad} if config.is_encoder_decoder else fields


def text_config(config: Any) -> Any:
    """Return the part of a configuration that describes what writes the completion (nested in Gemma 3 and T5Gemma)."""
    return layer_config(config, "decoder")


def positions(config: Any) -> int | None:
    """Return the number of learnt or trained positions, or None where positions are relative (T5).

    Dynamic rotary scaling stretches the positions by its factor.
    """
    text = text_config(config)
    names = ("max_position_embeddings", "max_seq_len", "max_decoder_position_embeddings")  # the names of MPT, LED
    limit = next((limit for name in names if (limit := getattr(text, name, None))), None)
    rope = getattr(text, "rope_parameters", None) or {}
    return int(limit * rope.get("factor", 1)) if limit and rope.get("rope_type") == "dynamic" else limit


def head_scale(config: Any) -> float:
    """Return the factor by which a model multiplies its hidden states before the head.

    A factor on the logits is the same factor on the hidden states.
    """
    config = text_config(config)
    tied = config.model_type in {"umt5", "switch_transformers"} and config.tie_word_embeddings
    if getattr(config, "scale_decoder_outputs", tied):  # T5 and its relatives
        return float(config.d_model**-0.5)
    if config.model_type.startswith(("granite", "minicpm")):
        return 1 / float(getattr(config, "logits_scaling", 1.0))
    factors = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, ...
    values = [getattr(config, name, None) for name in factors]
    return next((float(value) for value in values if isinstance(value, int | float) and value), 1.0)


def softcap(config: Any) -> float | None:
    """Return the bound of the logits, softcap * tanh(logits / softcap), or None."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(text_config(config), name, None))), None)


def tied_head(model: Any) -> bool:
    """Return whether the head's weights are the embedding's."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def untie_head(model: Any) -> Any:
    """Give a model a randomly initialised head of its own, and return the model.

    T5 needs it, because its configuration calls itself tied, whatever its fields say. The logits start with unit
    variance; transformers would give the head unit weights and the logits a standard deviation of sqrt(d_model).
    """
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * model.config.d_model**-0.5)
    return model


def stacks(model: Any) -> dict[str, Any]:
    """Return the modules that hold a model's layers: `encoder` and `decoder`, or `decoder` alone."""
    if model.config.is_encoder_decoder:
        return {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    decoder = model.get_decoder()
    # A head may be called `decoder` (ModernBERT).
    has_layers = any(isinstance(module, torch.nn.ModuleList) for module in decoder.modules())
    return {"decoder": decoder if has_layers else model.base_model}


def is_flat_pair(config: Any) -> bool:
    """Return whether one configuration describes the layers of an encoder and of a decoder side by side (T5, BART)."""
    return bool(config.is_encoder_decoder) and layer_config(config, "decoder") is config


def layer_config(config: Any, stack: str) -> Any:
    """Return the configuration that describes the layers of a stack: a nested one, or the configuration itself."""
    if not config.is_encoder_decoder:
        return config.get_text_config(decoder=True)
    nested = getattr(config, stack, None)
    return config if nested is None else nested.get_text_config()


def probe_inputs(model: Any) -> dict[str, Any]:
    """Return the inputs of one plain pass over a few tokens."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids_1S = (torch.arange(1, 13)[None] * 7).to(model.device) % rows
    return {"input_ids": ids_1S} | ({"decoder_input_ids": ids_1S[:, :8]} if model.config.is_encoder_decoder else {})
