"""Read and write the tokenizer of a model directory, together with the end tokens of the pair."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import cached_file

from pipeline.models.tokenizer.end_tokens import add_end_ids, eos_ids
from pipeline.models.tokenizer.tokens import WRITTEN_VOCAB, Tokenizer, shared_vocab
from pipeline.runtime.errors import ModelError

_GENERATION = "generation_config.json"


def load_tokenizer(path: Path | str, **options: str) -> Tokenizer:
    """Return the tokenizer of a model directory or of a hub model, with the end tokens that are recorded there.

    Args:
        path: A directory as a Path, or a directory or hub name as a string.
        options: Options of transformers, such as `revision`.

    Raises:
        ModelError: When the directory does not exist, or has no readable tokenizer.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise ModelError(path, expected="a model directory", got="nothing", remedy="make it or correct the path")
    with _readable(path, "name a directory with tokenizer.json, or a model on the hub while it can be reached"):
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, **options)
    if "gguf_file" not in options:
        add_end_ids(tokenizer, _generation_config(path, options))
        _limit_vocab(tokenizer, Path(path))
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer beside the weights in `folder`, and record the end tokens of the pair.

    The record is `eos_token_id` of generation_config.json, from which transformers and serving engines read it.
    """
    _limit_vocab(tokenizer, folder)
    tokenizer.save_pretrained(folder)
    path, ends = folder / _GENERATION, eos_ids(tokenizer)
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fields |= {"eos_token_id": ends if len(ends) > 1 else ends[0]}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _generation_config(path: Path | str, options: dict[str, str]) -> dict[str, Any]:
    """Return the generation configuration beside a tokenizer; empty where there is none.

    Raises:
        ModelError: When it is damaged, or when its `eos_token_id` are no token ids.
    """
    try:
        file = cached_file(str(path), _GENERATION, revision=options.get("revision"))
    except (OSError, ValueError):
        return {}
    if file is None:
        return {}
    expected, remedy = "JSON whose eos_token_id is a token id or a list of them", "get the file again, or remove it"
    try:
        fields = json.loads(Path(file).read_text(encoding="utf-8"))
        eos = fields.get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ModelError(file, expected=expected, got=error, remedy=remedy) from error
    if not all(type(token) is int for token in (eos if isinstance(eos, list) else [eos]) if token is not None):
        raise ModelError(file, expected=expected, got=f"eos_token_id {eos!r}", remedy=remedy)
    return dict(fields)


def _limit_vocab(tokenizer: Tokenizer, folder: Path) -> None:
    """End the vocabulary at the last row of the model's head, where the tokenizer has higher ids."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        rows = config.get("vocab_size") or config["text_config"]["vocab_size"]
        if int(rows) < shared_vocab(tokenizer):
            tokenizer.init_kwargs[WRITTEN_VOCAB] = int(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # the directory of an adapter, or a model on the hub


def byte_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with a token for every byte, then <pad>, <s> and </s>, then a token for each of `words`.

    It serves randomly initialised models. It encodes any text and learns nothing; words, the longest first, only
    shorten the texts that contain them (a word problem to about a third). A plain prompt begins with <s>.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in ("<pad>", "<s>", "</s>")])
    core.add_tokens([tokenizers.AddedToken(word, normalized=False) for word in words])
    begin = [("<s>", core.token_to_id("<s>"))]
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def load_tokenizer_file(path: Path) -> Tokenizer:
    """Return the tokenizer of a lone tokenizer.json, as beside a T5 in ONNX, with T5's special tokens.

    Raises:
        ModelError: When the file is missing or damaged.
    """
    with _readable(path, "put the model's own there"):
        return PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@contextmanager
def _readable(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn every error of the block into one line about the tokenizer at `path`."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged tokenizer.json
        got = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(path, expected="a tokenizer", got=got, remedy=remedy) from error
