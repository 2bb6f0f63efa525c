"""What a configuration says of its family: which class loads it, how states become logits, how its layers are counted.

Guarantee: what is not known here changes nothing silently; a head that does something else is refused when a model is
loaded (`lm.load_model`). Not taken: a class for each family, since all but these few facts are alike.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM


def auto_class(config: Any) -> Any:
    """Transformers' class of models with a head on the vocabulary."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def token_id_fields(config: Any, *, bos: int, eos: int, pad: int) -> dict[str, int]:
    """What a configuration calls these ids; a decoder behind an encoder starts with the pad token, as T5's does."""
    fields = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    return fields | {"decoder_start_token_id": pad} if config.is_encoder_decoder else fields


def positions(config: Any) -> int | None:
    """How many places its learnt or trained positions have; None where they are relative (T5)."""
    return getattr(config, "max_position_embeddings", None)


def head_scale(config: Any) -> float:
    """What the model multiplies its states with before the head, or its logits after it, which is the same."""
    tied = config.model_type in {"umt5", "switch_transformers"} and config.tie_word_embeddings
    if getattr(config, "scale_decoder_outputs", tied):  # T5 and its kin
        return float(config.d_model**-0.5)
    if config.model_type.startswith("granite"):
        return 1 / float(getattr(config, "logits_scaling", 1.0))
    return float(getattr(config, "logit_scale", None) or 1.0)  # Cohere


def tied_head(model: Any) -> bool:
    """Whether the head is the embedding."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def untie_head(model: Any) -> Any:
    """The model with a fresh head of its own, for T5, whose configuration calls itself tied whatever it is told.

    Logits start with unit variance; transformers gives such a head unit weights and logits of spread sqrt(d_model).
    """
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * model.config.d_model**-0.5)
    return model


def stacks(model: Any) -> dict[str, Any]:
    """The modules that hold a model's layers: `encoder` and `decoder`, or `decoder` alone."""
    if model.config.is_encoder_decoder:
        return {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    return {"decoder": model.base_model}


def count_layers(config: Any, counts: dict[str, int]) -> None:
    """Write the numbers of layers into a configuration, under whatever names the family has."""
    names = {"decoder": ["num_hidden_layers"]}
    if config.is_encoder_decoder:
        names = {
            "encoder": ["num_hidden_layers", "num_layers", "encoder_layers"],
            "decoder": ["num_decoder_layers", "decoder_layers"],
        }
    for side, count in counts.items():
        for name in names[side]:
            if hasattr(config, name):
                setattr(config, name, count)
