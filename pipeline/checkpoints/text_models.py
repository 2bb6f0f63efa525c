"""Take the language model out of a model that also reads images or sounds.

Guarantee: the text model has the logits of the whole model on a few tokens of text; a model for which it has not is
left whole.
"""

import re
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pipeline.models.architectures import layer_config, probe_inputs, stacks, tied_head

_TOWERS = re.compile(r"(^|\.)(vision|visual|image|audio|speech|multi_modal|mm_|embed_vision|embed_audio)")


def without_use(config: Any, names: set[str]) -> set[str]:
    """Return those names of weights that a language model has no use for, as its configuration says.

    They belong to the image or sound part of a model with such a part, or to the layers after the last one that predict
    several tokens at once (`num_nextn_predict_layers`).
    """
    text = config.get_text_config()
    last = getattr(text, "num_hidden_layers", None) or 0
    further = range(last, last + (getattr(text, "num_nextn_predict_layers", None) or 0))
    return {name for name in names if (text is not config and _TOWERS.search(name)) or _layer(name) in further}


def _layer(name: str) -> int | None:
    match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return int(match[1]) if match else None


@torch.no_grad()
def text_model(model: Any) -> Any:
    """Return the language model of a model that also reads images or sounds; any other model as it is."""
    config = layer_config(model.config, "decoder")
    if "encoder" in stacks(model) or config is model.config:
        return model
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if kind is None or isinstance(kind, tuple):
        return model
    with torch.device("meta"):
        text = kind(config)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if type(text.base_model) is not type(decoder) or head is None:
        return model
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(head)
    text.generation_config, config.tie_word_embeddings = model.generation_config, tied_head(model)
    if head.weight.is_meta:  # no weights, nothing to compare
        return text
    probe = probe_inputs(model)
    whole, part = (each.eval()(**probe, use_cache=False).logits for each in (model, text))
    return text if torch.equal(whole, part) else model
