"""A teacher from nothing: a configuration, random weights, and a tokenizer of bytes or of another model.

For tasks that a model of 1-10 M parameters learns (`arithmetic`); it knows nothing until it is fine-tuned. Guarantee:
equal parameters give equal weights. Not taken: a tokenizer trained on the task's texts, which would make the teacher
depend on the task, and every change of a task would make another teacher.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig

from pipeline.models.architectures import auto_class, tied_head, token_id_fields, untie_head
from pipeline.models.tokenizer import byte_tokenizer, completion_ids, decode, load_tokenizer, shared_vocab
from pipeline.runtime.errors import ParameterError

FRESH = "fresh:"  # begins the name of a model that came from nowhere


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshParams:
    """`teacher.model` as a mapping."""

    config: dict[str, object]
    """`model_type` of transformers (llama, t5, ...), and what differs from its defaults; token ids may be left out."""
    tokenizer: str | tuple[str, ...]
    """`bytes`: a token for every byte and three special ones; a list: the same and a token for each of these strings;
    or a hub name or a directory, whose tokenizer it gets."""
    seed: int
    """Of the weights."""

    @property
    def name(self) -> str:
        """For lineages."""
        return f"{FRESH}{self.config.get('model_type')}"


def make_fresh(p: FreshParams, *, where: str) -> tuple[Any, Any]:
    """Model and tokenizer of the same vocabulary; a ParameterError for a configuration that makes no model."""
    tokenizer = _tokenizer(p.tokenizer, where=f"{where}.tokenizer")
    fields = dict(p.config)
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        expected = "a model type of transformers, such as llama"
        raise _mistake(f"{where}.config.model_type", expected, "nothing" if kind is None else repr(kind))
    default = AutoConfig.for_model(kind)
    check_fields(default, fields, where=where)
    named = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    every = {"vocab_size": shared_vocab(tokenizer)} | token_id_fields(default, **named) | fields
    tied = fields.get("tie_word_embeddings") is not False
    return random_model(type(default), every, tied=tied, seed=p.seed, where=where), tokenizer


def check_fields(config: Any, fields: Iterable[str], *, where: str) -> None:
    """A ParameterError for a name that a configuration does not have."""
    for key in fields:
        if not hasattr(config, key):
            field = f"a field of {type(config).__name__}"
            raise ParameterError(
                f"{where}.config.{key}", expected=field, got="an unknown name", remedy="remove or rename it"
            )


def random_model(kind: Any, fields: dict[str, object], *, tied: bool, seed: int, where: str) -> Any:
    """Random weights for a class of configurations and its fields; a ParameterError where these make no model.

    T5 has to be told twice that its head is its own: its configuration calls itself tied whatever it is told.
    """
    torch.manual_seed(seed)
    try:
        config = kind.from_dict(fields)
        made = auto_class(config).from_config(config).float()
        return made if tied or not tied_head(made) else untie_head(made)
    except Exception as error:  # transformers' checks raise whatever they run into
        got = " ".join(str(error).split())[:160]
        raise _mistake(f"{where}.config", f"a {kind.__name__} that fits together", got) from error


def _tokenizer(named: str | tuple[str, ...], *, where: str) -> Any:
    if isinstance(named, str):
        return byte_tokenizer(()) if named == "bytes" else load_tokenizer(named)
    made = byte_tokenizer(named)
    for one in named:  # tokenizers' ByteLevel takes a lone \u00fc for the byte of that number
        if decode(made, completion_ids(made, one)) != one:
            raise _mistake(where, "words that read back: of ASCII letters, or with a space", repr(one))
    return made


def _mistake(where: str, expected: str, got: str) -> ParameterError:
    return ParameterError(where, expected=expected, got=got, remedy="mend params.yaml")
