"""Token ids to text, plain text to token ids, and the size of a vocabulary."""

from collections.abc import Sequence
from typing import Any, TypeAlias

Tokenizer: TypeAlias = Any  # a transformers tokenizer, which has no types

# The key in tokenizer_config.json of a vocabulary that ends before the tokenizer's highest id.
WRITTEN_VOCAB = "stillroom_vocab"
_SENTENCEPIECE_SPACE = "\u2581"


def ids_of(tokenizer: Tokenizer, text: str, **options: bool) -> list[int]:
    """Return the ids of a text; `options` are those of a call of the tokenizer."""
    return [int(token) for token in tokenizer(text, **options)["input_ids"]]


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


def added_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of all added tokens, special or not, without those of blanks alone, which are text."""
    return {
        token.content: int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.content.strip()
    }


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of the special tokens."""
    return {int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def shared_vocab(tokenizer: Tokenizer) -> int:
    """Return the size of the vocabulary that teacher and students share, which their heads may exceed by padding.

    It is the highest id + 1, or the teacher's number of head rows where that is smaller: a fine-tune's tokenizer may
    have a padding token that the head has no row for and that nothing writes.
    """
    size = max(map(int, tokenizer.get_vocab().values())) + 1
    return min(size, int(tokenizer.init_kwargs.get(WRITTEN_VOCAB, size)))
