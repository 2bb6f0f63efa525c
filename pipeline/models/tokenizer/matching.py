"""Whether a student's tokenizer goes together with its teacher's: the ids that both write mean the same bytes.

The student then takes the teacher's tokenizer, chat template and end tokens. So it does not matter where the two differ
otherwise: further tokens, padding, names of control tokens that one of them never writes, or which id is called eos.
"""

import json
from collections.abc import Iterator

from pipeline.core.hashing import digest
from pipeline.models.tokenizer.end_tokens import eos_ids, share_end_ids
from pipeline.models.tokenizer.tokens import Tokenizer, ids_of, special_ids, token_texts
from pipeline.runtime.errors import ModelError

_NAMED_IDS = 3  # differing ids that a message names


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Return a fingerprint of the meaning of all ids: the token of every id, and bos, eos and unk.

    The padding token, the padding side and the chat template are not included, because they change no stored id.
    """
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    return digest(sorted(tokenizer.get_vocab().items()), special)


def require_same_tokenizer(teacher: Tokenizer, student: Tokenizer, names: tuple[str, str]) -> None:
    """Check that every id that both tokenizers write means the same, and give the student the teacher's end tokens.

    Args:
        teacher: The teacher's tokenizer.
        student: The student's tokenizer, which gets the chat template and the end tokens of the teacher's.
        names: Names of teacher and student, for messages.

    Raises:
        ModelError: When an id differs.
    """
    differing = list(_differing(teacher, student))
    if differing:
        named = differing[:_NAMED_IDS]
        examples = ", ".join(f"{token} ({there!r} there, {here!r} here)" for token, there, here in named)
        got = f"{len(differing):,} ids that mean something else, such as {examples}"
        expected = f"the tokenizer of the teacher {names[0]}"
        remedy = "take a student with the teacher's vocabulary, or `model: teacher` with fewer layers"
        raise ModelError(names[1], expected=expected, got=got, remedy=remedy)
    share_end_ids(teacher, student)


def check_head_rows(rows: int, vocab: int, *, where: object) -> None:
    """Check that a head has a row for every token id of the shared vocabulary.

    Raises:
        ModelError: When it has fewer rows.
    """
    if rows < vocab:
        expected, remedy = f"a head of at least {vocab} tokens", "use a model with the teacher's vocabulary"
        raise ModelError(where, expected=expected, got=f"{rows}", remedy=remedy)


def _differing(teacher: Tokenizer, student: Tokenizer) -> Iterator[tuple[int, str, str]]:
    """Yield the ids that both write in another meaning, with both meanings."""
    there, here = ({int(index): name for name, index in side.get_vocab().items()} for side in (teacher, student))
    # Equal names of ordinary tokens mean equal bytes, unless the two decode in another way.
    same_decoder = _decoder(teacher) == _decoder(student)
    shared = sorted(there.keys() & here.keys())
    suspects = [token for token in shared if there[token] != here[token] or not same_decoder]
    if not suspects:
        return
    never = _never_written(teacher) | _never_written(student)
    controls = [special_ids(side) for side in (teacher, student)]
    for token in suspects:
        if token in never:
            continue
        meanings = [
            names[token] if token in control else _meaning(side, token, names[token])
            for side, names, control in zip((teacher, student), (there, here), controls, strict=True)
        ]
        if meanings[0] != meanings[1]:
            yield token, meanings[0], meanings[1]


def _meaning(tokenizer: Tokenizer, token: int, name: str) -> str:
    """Return the text of an ordinary token, or its name where it is a part of a letter, which has no text alone."""
    text = token_texts(tokenizer, [token])[0]
    return name if "\ufffd" in text else text


def _decoder(tokenizer: Tokenizer) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    return type(decoder).__name__ if decoder is not None else type(tokenizer).__name__


def _never_written(tokenizer: Tokenizer) -> set[int]:
    """Return the special tokens that neither the chat template nor the tokenizer writes and that end no completion."""
    template = json.dumps(tokenizer.chat_template or "")
    named = {index for name, index in tokenizer.get_vocab().items() if json.dumps(name)[1:-1] in template}
    try:
        ends = set(eos_ids(tokenizer))
    except ModelError:  # the student gets the teacher's
        ends = set()
    return special_ids(tokenizer) - named - ends - set(ids_of(tokenizer, "a"))
