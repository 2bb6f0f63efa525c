"""Tokenizers and chat templates: the only module that knows them.

* Guarantee: a prompt is rendered once and a completion is tokenised once, and special tokens are not added twice. A
  completion ends with exactly one end token. Text in a completion that spells a special token is encoded as plain text.
* Cost: importing transformers takes 2-3 s, and loading a tokenizer about 1 s.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import tokenizers
from jinja2 import TemplateError
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.core.hashing import digest
from pipeline.runtime.errors import ModelError

Tokenizer: TypeAlias = Any  # a transformers tokenizer, which has no types

_SENTENCEPIECE_SPACE = "\u2581"
_ANSWER = "stillroom"  # stands for an answer when a template is rendered to see how it closes a turn


def load_tokenizer(path: Path | str, **options: str) -> Tokenizer:
    """Return the tokenizer of a model directory or of a hub model.

    Args:
        path: A directory as a Path, or a directory or hub name as a string.
        options: Options of transformers, such as `revision`.

    Raises:
        ModelError: When the directory does not exist, or has no readable tokenizer.
    """
    if isinstance(path, Path) and not path.is_dir():
        raise ModelError(path, expected="a model directory", got="nothing", remedy="make it or correct the path")
    with _readable(path, "name a directory with tokenizer.json, or a model on the hub while it can be reached"):
        return AutoTokenizer.from_pretrained(str(path), **options)


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


def render(tokenizer: Tokenizer, prompt: str | list[dict[str, str]]) -> tuple[str, list[int]]:
    """Return the text that a model reads, and its token ids.

    Args:
        tokenizer: The model's tokenizer.
        prompt: A text, which stays as it is and gets the special tokens that the tokenizer adds (bos, or T5's eos).
            Or messages with `role` and `content` for the chat template, which opens the answer and writes its own
            special tokens.

    Raises:
        ModelError: When the tokenizer has no chat template for the messages.
    """
    if isinstance(prompt, str):
        return prompt, _ids(tokenizer, prompt, add_special_tokens=True)
    name = tokenizer.name_or_path or "tokenizer"
    if not tokenizer.chat_template:
        raise ModelError(name, expected="a chat template", got="none", remedy="set task.template.chat: false")
    try:
        text: str = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:  # for example no system turn, or turns that do not alternate
        expected = f"a chat template for turns of {', '.join(message['role'] for message in prompt)}"
        raise ModelError(name, expected=expected, got=str(error), remedy="fix task.template") from error
    return text, _ids(tokenizer, text, add_special_tokens=False)


def completion_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of an answer, which end with the first of `eos_ids`.

    Tokens that an encoder-decoder writes before every text are included: BART's <s>, mBART-50's language; T5 has none.
    T5's tokenizer encodes the letters "</s>" as the token despite split_special_tokens, so end tokens are removed.

    Raises:
        ModelError: When the tokenizer has no end token.
    """
    ids, ends = _ids(tokenizer, text, add_special_tokens=False, split_special_tokens=True), eos_ids(tokenizer)
    return [*_target_prefix(tokenizer), *(token for token in ids if token not in ends), ends[0]]


def _target_prefix(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens before a target text; none for a decoder, whose tokenizer ends no text with eos."""
    ids = [int(token) for token in tokenizer(text_target=_ANSWER)["input_ids"]]
    if tokenizer.chat_template or tokenizer.eos_token_id not in ids[-2:]:  # mBART's language may follow eos
        return []
    special = _special_ids(tokenizer)
    return ids[: next((index for index, token in enumerate(ids) if token not in special), 0)]


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of token ids without special tokens."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each token alone, with its leading space; special tokens by name.

    SentencePiece drops a leading space when it decodes one token, but writes it into the token's name.
    """
    return [_token_text(tokenizer, int(token)) for token in ids]


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    name: str | None = tokenizer.convert_ids_to_tokens(token)
    if name and name.startswith(_SENTENCEPIECE_SPACE):
        return name.replace(_SENTENCEPIECE_SPACE, " ")
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text or name or f"<{token}>"


def eos_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the token ids that end a completion, the usual one first.

    Some chat models close a turn with another token than the tokenizer's eos (Gemma: <end_of_turn>), so the chat
    template is rendered to find it.

    Raises:
        ModelError: When there is no such token.
    """
    ids = list(dict.fromkeys(token for token in (_turn_end(tokenizer), tokenizer.eos_token_id) if token is not None))
    if not ids:
        name, remedy = tokenizer.name_or_path or "tokenizer", "set eos_token in its tokenizer_config.json"
        raise ModelError(name, expected="an end-of-sequence token", got="none", remedy=remedy)
    return ids


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Return a fingerprint of the meaning of all ids: the token of every id, and bos, eos and unk.

    The padding token, the padding side and the chat template are not included, because they change no stored id.
    """
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    return digest(sorted(tokenizer.get_vocab().items()), special)


def template_fingerprint(tokenizer: Tokenizer) -> str:
    """Return a fingerprint of the chat template, which decides the ids of a prompt, or "" without a template."""
    return digest(tokenizer.chat_template) if tokenizer.chat_template else ""


def shared_vocab(tokenizer: Tokenizer) -> int:
    """Return the size of the tokenizer's vocabulary, its highest id + 1; embeddings may be padded to more rows."""
    return max(map(int, tokenizer.get_vocab().values())) + 1


def require_same_tokenizer(teacher: Tokenizer, student: Tokenizer, names: tuple[str, str]) -> None:
    """Check that both tokenizers give every id the same meaning.

    Args:
        teacher: The teacher's tokenizer.
        student: The student's tokenizer.
        names: Names of teacher and student, for messages.

    Raises:
        ModelError: When an id differs.
    """
    if tokenizer_fingerprint(teacher) == tokenizer_fingerprint(student):
        return
    differing = sorted(set(teacher.get_vocab().items()) ^ set(student.get_vocab().items()))
    got = f"{len(differing):,} differing entries such as {differing[0]}" if differing else "other special tokens"
    remedy = "take a student of the teacher's family, or a new one made with the teacher's tokenizer"
    raise ModelError(names[1], expected=f"the tokenizer of the teacher {names[0]}", got=got, remedy=remedy)


def _ids(tokenizer: Tokenizer, text: str, **options: bool) -> list[int]:
    return [int(token) for token in tokenizer(text, **options)["input_ids"]]


def _turn_end(tokenizer: Tokenizer) -> int | None:
    """Return the special token that the chat template writes right after an answer, if any."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": role, "content": _ANSWER} for role in ("user", "assistant")]
    closing = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_ANSWER)[2].strip()
    ids = _ids(tokenizer, closing, add_special_tokens=False)
    return ids[0] if ids and ids[0] in _special_ids(tokenizer) else None


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    return {int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
