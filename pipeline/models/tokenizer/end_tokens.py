"""The tokens that end a completion: one list for a teacher and its students.

The list is decided when the teacher's directory is made: the token with which the chat template closes an assistant's
turn, the tokenizer's eos, and every `eos_token_id` of the generation configuration. Each model directory records it in
generation_config.json (`files.save_tokenizer`), and `files.load_tokenizer` reads it back.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.models.tokenizer.chat_template import Chat, chat_text
from pipeline.models.tokenizer.tokens import Tokenizer, added_tokens, decode, ids_of, special_ids, token_texts
from pipeline.runtime.errors import ModelError

_QUESTION, _ANSWER = "distil", "stillroom"  # stand for a request and an answer, to see how a template closes a turn
_RECORDED, _SHARED = "stillroom_recorded_ends", "stillroom_shared_ends"  # attributes of a tokenizer


def eos_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the token ids that end a completion, the usual one first, with which references end.

    Raises:
        ModelError: When there is no such token.
    """
    if shared := getattr(tokenizer, _SHARED, None):
        return list(shared)
    candidates = [_turn_end(tokenizer), tokenizer.eos_token_id, *getattr(tokenizer, _RECORDED, ())]
    ids = list(dict.fromkeys(int(token) for token in candidates if token is not None))
    if not ids:
        name, remedy = tokenizer.name_or_path or "tokenizer", "set eos_token in its tokenizer_config.json"
        raise ModelError(name, expected="an end-of-sequence token", got="none", remedy=remedy)
    return ids


def add_end_ids(tokenizer: Tokenizer, generation_config: Mapping[str, Any]) -> None:
    """Let a model's generation configuration add its `eos_token_id` to the end tokens of a tokenizer.

    Ids that the tokenizer does not have are left out. transformers copies the defaults of a model's configuration where
    nobody wrote a generation configuration; of those only special tokens count.
    """
    listed = generation_config.get("eos_token_id")
    ids = [int(token) for token in (listed if isinstance(listed, list | tuple) else [listed]) if token is not None]
    copied = bool(generation_config.get("_from_model_config"))
    known = special_ids(tokenizer) if copied else set(tokenizer.get_vocab().values())
    ends = [*getattr(tokenizer, _RECORDED, ()), *(token for token in ids if token in known)]
    setattr(tokenizer, _RECORDED, tuple(dict.fromkeys(ends)))


def share_end_ids(teacher: Tokenizer, student: Tokenizer) -> None:
    """Give a student's tokenizer the end tokens and the chat template of its teacher, which may write bos and eos."""
    setattr(student, _SHARED, tuple(eos_ids(teacher)))
    student.chat_template = teacher.chat_template
    student.bos_token, student.eos_token = teacher.bos_token, teacher.eos_token


def completion_decoder(tokenizer: Tokenizer) -> Callable[[list[int]], str]:
    """Return a function from a completion's token ids to its text, without an end token, special or not."""
    ends = set(eos_ids(tokenizer)) - special_ids(tokenizer)

    def text_of(ids: list[int]) -> str:
        return decode(tokenizer, ids[:-1] if ids and ids[-1] in ends else ids)

    return text_of


def _turn_end(tokenizer: Tokenizer) -> int | None:
    """Return the token that the chat template writes right after an answer, if any."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    for messages in (turns, [{"role": "system", "content": _QUESTION}, *turns]):
        try:
            text = chat_text(tokenizer, Chat(messages=messages), opens_answer=False)
        except ModelError:  # `rendering.render` reports it where the template is needed
            continue
        answers = list(re.finditer(_ANSWER, text, re.IGNORECASE))
        if answers:
            return _closing_token(tokenizer, text[answers[-1].end() :].strip())
    return None


def _closing_token(tokenizer: Tokenizer, closing: str) -> int | None:
    """Return the added token that a text begins with, or the single token that is the whole text."""
    added = added_tokens(tokenizer)
    starts = [name for name in added if closing.startswith(name.strip())]
    token = added[max(starts, key=len)] if starts else _single_token(tokenizer, closing)
    opening = {tokenizer.bos_token_id, tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    return None if token in opening else token


def _single_token(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the token that is the whole text, if there is one; SentencePiece may put a token for a space first."""
    ids = ids_of(tokenizer, text, add_special_tokens=False)
    texts = [name.strip() for name in token_texts(tokenizer, ids)]
    is_word = any(map(str.isalnum, text))  # a full stop or a bracket also occurs within an answer
    return ids[-1] if is_word and "".join(texts) == text == texts[-1] else None
