"""Make a teacher from nothing: a configuration, random weights, and a tokenizer of bytes or of another model.

* Use: tasks that a model of 1-10 M parameters learns, such as `arithmetic`. Without fine-tuning it knows nothing.
* Guarantee: equal parameters give equal weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from pipeline.models.architectures import auto_class, tied_head, token_id_fields, untie_head
from pipeline.models.tokenizer import byte_tokenizer, completion_ids, decode, load_tokenizer, shared_vocab
from pipeline.runtime.errors import ParameterError

FRESH = "fresh:"  # the prefix of the name of a randomly initialised model in lineage records


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshParams:
    """The parameter `teacher.model` where it is a mapping: a randomly initialised model."""

    config: dict[str, object]
    """`model_type` of transformers, and the fields that differ from its defaults; token ids may be left out."""
    tokenizer: str | tuple[str, ...]
    """`bytes`, a list of further strings with a token each, or a hub name or directory with a tokenizer."""
    seed: int
    """Seed of the weights."""


def make_fresh(p: FreshParams, *, where: str) -> tuple[Any, Any]:
    """Return a randomly initialised model and a tokenizer with the same vocabulary.

    Raises:
        ParameterError: When the configuration makes no model, or a word of the tokenizer cannot be read back.
        ModelError: When the tokenizer cannot be loaded.
    """
    tokenizer = _tokenizer(p.tokenizer, where=f"{where}.tokenizer")
    fields = dict(p.config)
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        got = "nothing" if model_type is None else repr(model_type)
        expected = "a model type of transformers, such as llama"
        raise ParameterError(f"{where}.config.model_type", expected=expected, got=got)
    default = AutoConfig.for_model(model_type)
    check_fields(default, fields, where=where)
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    fields = {"vocab_size": shared_vocab(tokenizer)} | token_id_fields(default, **special) | fields
    tied = fields.get("tie_word_embeddings") is not False
    return random_model(type(default), fields, tied=tied, seed=p.seed, where=where), tokenizer


def check_fields(config: Any, fields: Iterable[str], *, where: str) -> None:
    """Check that a configuration has all of these fields.

    Raises:
        ParameterError: When it lacks one.
    """
    for key in fields:
        if not hasattr(config, key):
            expected, remedy = f"a field of {type(config).__name__}", "remove or rename it"
            raise ParameterError(f"{where}.config.{key}", expected=expected, got="an unknown name", remedy=remedy)


def random_model(config_class: Any, fields: dict[str, object], *, tied: bool, seed: int, where: str) -> Any:
    """Return a model with random weights in float32, from a class of configurations and its fields.

    `tied` is needed beside the fields: the configuration of a T5 calls itself tied, whatever its fields say.

    Raises:
        ParameterError: When the fields make no model.
    """
    torch.manual_seed(seed)
    try:
        config = config_class.from_dict(fields)
        model = auto_class(config).from_config(config).float()
        return model if tied or not tied_head(model) else untie_head(model)
    except Exception as error:  # the checks of transformers raise exceptions of any type
        got = " ".join(str(error).split())[:160]
        expected = f"a {config_class.__name__} that fits together"
        raise ParameterError(f"{where}.config", expected=expected, got=got) from error


def _tokenizer(source: str | tuple[str, ...], *, where: str) -> Any:
    if isinstance(source, str):
        return byte_tokenizer(()) if source == "bytes" else load_tokenizer(source)
    tokenizer = byte_tokenizer(source)
    # The byte-level decoder takes a single letter such as \u00fc for the byte of that number.
    for word in source:
        if decode(tokenizer, completion_ids(tokenizer, word)) != word:
            expected = "words that read back: of ASCII letters, or with a space"
            raise ParameterError(where, expected=expected, got=repr(word))
    return tokenizer
