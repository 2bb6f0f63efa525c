r"""Control tokens that data spell stay text; those that a template writes are tokens.

A string of the data gets a mark inside each control token that it spells, so that a template cannot take it for its
own. A rendered text with marks is encoded by a twin of the tokenizer, in which control tokens have private names: the
template's own are renamed, the data's are not. So the data's letters get the ids that they have in any text. A text
without marks takes the usual way. Data cannot spell a mark or a private name: Unicode keeps their code points out of
texts, and U+FFFD replaces them, as Unicode advises.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import tokenizers

from pipeline.models.tokenizer.chat_template import MARK
from pipeline.models.tokenizer.end_tokens import eos_ids
from pipeline.models.tokenizer.tokens import Tokenizer, added_tokens, ids_of, special_ids
from pipeline.runtime.errors import ModelError

_NAME_OPENING, _NAME_END = "\ufdd1", "\ufdd2"  # around the number of a private name
_REPLACED = str.maketrans(dict.fromkeys((MARK, _NAME_OPENING, _NAME_END), "\ufffd"))


class FilledText(str):
    """A template filled with data. Control tokens of the template are tokens; those that the data spell are text."""

    parts: tuple[tuple[str, bool], ...]

    def __new__(cls, parts: Sequence[tuple[str, bool]]) -> "FilledText":
        """Join parts, each with whether it is data."""
        text = super().__new__(cls, "".join(part for part, _ in parts))
        text.parts = tuple(parts)
        return text


def mark_text(tokenizer: Tokenizer, text: str, *, answer: bool = False) -> str:
    """Return a text of the data with a mark inside every control token that it spells.

    Args:
        tokenizer: The tokenizer.
        text: The text. In a `FilledText` the data's parts are marked; any other text is data as a whole.
        answer: The assistant wrote it. Then added tokens that are not special, such as <think>, are its own words.
    """
    pattern = _pattern(_control_names(tokenizer, answer=answer))
    parts = text.parts if isinstance(text, FilledText) else ((text, True),)
    clean = ((part.translate(_REPLACED), is_data) for part, is_data in parts)
    return "".join(pattern.sub(_marked, part) if is_data else part for part, is_data in clean)


def mark_values(tokenizer: Tokenizer, value: Any, *, answer: bool) -> Any:
    """Return a value of the data with `mark_text` of every string in it, keys of mappings too."""
    if isinstance(value, str):
        return mark_text(tokenizer, value, answer=answer)
    if isinstance(value, Mapping):
        values = {key: mark_values(tokenizer, item, answer=answer) for key, item in value.items()}
        return {mark_text(tokenizer, key) if isinstance(key, str) else key: item for key, item in values.items()}
    return [mark_values(tokenizer, item, answer=answer) for item in value] if isinstance(value, list) else value


def unmarked(text: str) -> str:
    """Return a text without marks."""
    return text.replace(MARK, "")


def marked_ids(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Return the ids of a text with marks."""
    if MARK not in text:
        return ids_of(tokenizer, text, add_special_tokens=add_special_tokens)
    names = _control_names(tokenizer, answer=False)
    twin = _twin(tokenizer, names)
    if twin is None:
        return _ids_of_pieces(tokenizer, text, add_special_tokens=add_special_tokens)
    private = _pattern(names).sub(lambda match: _private_name(names.index(match[0])), text)
    return [int(token) for token in twin.encode(unmarked(private), add_special_tokens=add_special_tokens).ids]


def continued_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text with or without marks that follows another text.

    SentencePiece puts a space before the first word of a text, and none here.
    """
    before, ids = (marked_ids(tokenizer, line, add_special_tokens=False) for line in ("\n", f"\n{text}"))
    return ids[len(before) :] if ids[: len(before)] == before else marked_ids(tokenizer, text, add_special_tokens=False)


def _ids_of_pieces(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Return the ids of a text that is cut at its marks: no piece contains a whole control token of the data."""
    first, *rest = text.split(MARK)
    ids = ids_of(tokenizer, first, add_special_tokens=False)
    ids += [token for piece in rest for token in continued_ids(tokenizer, piece)]
    if not add_special_tokens:
        return ids
    word, around = ids_of(tokenizer, "a", add_special_tokens=False), ids_of(tokenizer, "a")
    start = next((index for index in range(len(around)) if around[index : index + len(word)] == word), 0)
    return [*around[:start], *ids, *around[start + len(word) :]]


def _marked(match: re.Match[str]) -> str:
    return match[0][0] + MARK + match[0][1:]


def _private_name(index: int) -> str:
    return f"{_NAME_OPENING}{index}{_NAME_END}"


@lru_cache(maxsize=16)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, names)) or "(?!)")


def _control_names(tokenizer: Tokenizer, *, answer: bool) -> tuple[str, ...]:
    """Return the control tokens, the longest first: special and end tokens, and added tokens that the template writes.

    The last kind is left out of the assistant's turns.
    """
    return _control_names_of(tokenizer, len(tokenizer), json.dumps(tokenizer.chat_template or ""), answer)


@lru_cache(maxsize=16)
def _control_names_of(tokenizer: Tokenizer, _: int, template: str, answer: bool) -> tuple[str, ...]:
    added, special = added_tokens(tokenizer), special_ids(tokenizer)
    names = {name for name, index in added.items() if index in special}
    names |= {name for name in added if not answer and json.dumps(name)[1:-1] in template}
    with suppress(ModelError):  # no end token, which `completion_ids` reports
        names |= set(tokenizer.convert_ids_to_tokens(eos_ids(tokenizer)))
    return tuple(sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name)))


@lru_cache(maxsize=4)
def _twin(tokenizer: Tokenizer, names: tuple[str, ...]) -> tokenizers.Tokenizer | None:
    """Return the tokenizer with private names for its control tokens, or None where it cannot be made."""
    private = {name: _private_name(index) for index, name in enumerate(names)}
    try:
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        for token in document["added_tokens"]:
            if token["content"] in private:
                token |= {"content": private[token["content"]], "normalized": False}
        model = document["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {private.get(name, name): index for name, index in model["vocab"].items()}
        else:  # Unigram
            model["vocab"] = [[private.get(name, name), score] for name, score in model["vocab"]]
        if model.get("unk_token") in private:
            model["unk_token"] = private[model["unk_token"]]
        twin = tokenizers.Tokenizer.from_str(json.dumps(document))
        twin.no_padding()
        twin.no_truncation()
    except Exception:  # a tokenizer in Python, or one of another form; the library raises bare Exception
        return None
    same = all(twin.token_to_id(private[name]) == tokenizer.convert_tokens_to_ids(name) for name in names)
    return twin if same else None
