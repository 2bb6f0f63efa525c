"""Tokenizers and chat templates: the only module that knows them.

Guarantee: a prompt is rendered once and a completion is tokenised once, without special tokens being added twice; a
completion ends with exactly one end token, and text that spells a special token is encoded as plain text there.
Cost: importing transformers takes 2-3 s, loading a tokenizer about 1 s. Not taken: tokenising the chat as a whole
(prompt and answer in one go), where the border between the two moves with the template.
"""

from collections.abc import Sequence
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
_ANSWER = "stillroom"  # stands for an answer when the template is asked how it closes a turn


def load_tokenizer(path: Path | str, **options: str) -> Tokenizer:
    """The tokenizer of a model directory or of a model on the hub; options such as revision go to transformers."""
    if isinstance(path, Path) and not path.is_dir():
        raise ModelError(path, expected="a model directory", got="nothing", remedy="make it or correct the path")
    try:
        return AutoTokenizer.from_pretrained(str(path), **options)
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged tokenizer.json
        raise ModelError(
            path,
            expected="a tokenizer",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="name a directory with tokenizer.json, or a model on the hub while it can be reached",
        ) from error


def byte_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A token for every byte, then <pad>, <s> and </s>, then one for each of `words`; a plain prompt begins with <s>.

    For models made on the spot. Nothing is learnt, so it serves any text and needs none; words only shorten those
    that have them (a word problem to about a third), the longest first.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(models.BPE(vocab={one: index for index, one in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(one, special=True) for one in ("<pad>", "<s>", "</s>")])
    core.add_tokens([tokenizers.AddedToken(one, normalized=False) for one in words])
    begin = [("<s>", core.token_to_id("<s>"))]
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def load_tokenizer_file(path: Path) -> Tokenizer:
    """A tokenizer.json that stands alone, as beside a T5 in ONNX, with T5's names for its special tokens."""
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path), **names)
    except Exception as error:  # as above
        got = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(path, expected="a tokenizer", got=got, remedy="put the model's own there") from error


def render(tokenizer: Tokenizer, prompt: str | list[dict[str, str]]) -> tuple[str, list[int]]:
    """The text that a model reads, and its token ids.

    Messages go through the tokenizer's chat template, which opens the answer and writes its own special tokens. A text
    stays as it is and gets what the tokenizer adds (bos, or T5's eos).
    """
    if isinstance(prompt, str):
        return prompt, _ids(tokenizer, prompt, add_special_tokens=True)
    text = _chat(tokenizer, prompt)
    return text, _ids(tokenizer, text, add_special_tokens=False)


def _chat(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
    name = tokenizer.name_or_path or "tokenizer"
    if not tokenizer.chat_template:
        raise ModelError(name, expected="a chat template", got="none", remedy="set task.template.chat: false")
    try:
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:  # such as no system turn, or turns that do not alternate
        roles = ", ".join(one["role"] for one in messages)
        raise ModelError(
            name, expected=f"a chat template for turns of {roles}", got=str(error), remedy="mend task.template"
        ) from error
    return text


def completion_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of an answer, ended by the first of `eos_ids`.

    What an encoder-decoder writes before every text is part of it: BART's <s>, the language of mBART-50; T5 has none.
    T5's tokenizer takes the letters of "</s>" for the token whatever it is told; there they are left out.
    """
    ids, ends = _ids(tokenizer, text, add_special_tokens=False, split_special_tokens=True), eos_ids(tokenizer)
    return [*_opening(tokenizer), *(one for one in ids if one not in ends), ends[0]]


def _opening(tokenizer: Tokenizer) -> list[int]:
    """Tokens before a target; a tokenizer that ends no text with eos is a decoder's, whose completions go on."""
    whole = [int(one) for one in tokenizer(text_target=_ANSWER)["input_ids"]]
    if tokenizer.chat_template or tokenizer.eos_token_id not in whole[-2:]:  # mBART's language may follow eos
        return []
    special = _special_ids(tokenizer)
    return whole[: next((place for place, one in enumerate(whole) if one not in special), 0)]


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of ids, special tokens left out."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Each id as the text of that token alone, its leading space kept; special tokens by name.

    SentencePiece drops a leading space when one token is decoded, but writes it into the token's name.
    """
    return [_token_text(tokenizer, int(one)) for one in ids]


def _token_text(tokenizer: Tokenizer, one: int) -> str:
    name: str | None = tokenizer.convert_ids_to_tokens(one)
    if name and name.startswith(_SENTENCEPIECE_SPACE):
        return name.replace(_SENTENCEPIECE_SPACE, " ")
    text: str = tokenizer.decode([one], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text or name or f"<{one}>"


def eos_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end a completion, the usual one first.

    Some chat models close a turn with another token than the tokenizer's eos (Gemma: <end_of_turn>), so the chat
    template is asked as well.
    """
    found = [_turn_end(tokenizer), tokenizer.eos_token_id]
    ids = list(dict.fromkeys(one for one in found if one is not None))
    if not ids:
        raise ModelError(
            tokenizer.name_or_path or "tokenizer",
            expected="an end-of-sequence token",
            got="none",
            remedy="set eos_token in its tokenizer_config.json",
        )
    return ids


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Equal for two tokenizers exactly when their ids mean the same: the token of every id, and bos, eos and unk.

    The padding token, the padding side and the chat template are not part of it: they change no stored id.
    """
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    return digest(sorted(tokenizer.get_vocab().items()), special)


def template_fingerprint(tokenizer: Tokenizer) -> str:
    """Identity of the chat template, which decides what a prompt's ids are; "" where there is none."""
    return digest(tokenizer.chat_template) if tokenizer.chat_template else ""


def shared_vocab(tokenizer: Tokenizer) -> int:
    """How many ids have a token: the highest id + 1. Models pad their vocabulary beyond it, each as it likes."""
    return max(map(int, tokenizer.get_vocab().values())) + 1


def require_same_tokenizer(teacher: Tokenizer, student: Tokenizer, names: tuple[str, str]) -> None:
    """A ModelError unless both give every id the same meaning; `names` are the teacher's and the student's."""
    if tokenizer_fingerprint(teacher) == tokenizer_fingerprint(student):
        return
    differing = sorted(set(teacher.get_vocab().items()) ^ set(student.get_vocab().items()))
    what = f"{len(differing):,} differing entries such as {differing[0]}" if differing else "other special tokens"
    raise ModelError(
        names[1],
        expected=f"the tokenizer of the teacher {names[0]}",
        got=what,
        remedy="take a student of the teacher's family, or a new one made with the teacher's tokenizer",
    )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _ids(tokenizer: Tokenizer, text: str, **options: bool) -> list[int]:
    return [int(one) for one in tokenizer(text, **options)["input_ids"]]


def _turn_end(tokenizer: Tokenizer) -> int | None:
    """The special token that the chat template writes right after an answer, if any."""
    if not tokenizer.chat_template:
        return None
    turns = [_turn("user", _ANSWER), _turn("assistant", _ANSWER)]
    closing = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_ANSWER)[2].strip()
    ids = _ids(tokenizer, closing, add_special_tokens=False)
    return ids[0] if ids and ids[0] in _special_ids(tokenizer) else None


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    return {int(one) for one, token in tokenizer.added_tokens_decoder.items() if token.special}
