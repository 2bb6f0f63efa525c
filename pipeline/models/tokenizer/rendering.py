"""Prompts and answers to token ids.

* The answer's tokens are those of the whole conversation, as the chat template writes it, after the prompt's.
* A text of the data that spells a control token stays text (`control_tokens`).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from pipeline.models.tokenizer.chat_template import Chat, Message, chat_text, content_text
from pipeline.models.tokenizer.control_tokens import continued_ids, mark_text, mark_values, marked_ids, unmarked
from pipeline.models.tokenizer.end_tokens import eos_ids
from pipeline.models.tokenizer.tokens import Tokenizer, decode, ids_of, special_ids
from pipeline.runtime.errors import DataError, ModelError

_OPENING = re.compile(r"<[^<>]+>\s*")
_QUESTION = "distil"  # stands for a request where an answer is tokenised alone


def render(tokenizer: Tokenizer, prompt: str | Sequence[Message] | Chat) -> tuple[str, list[int]]:
    """Return the text that a model reads, and its token ids.

    Args:
        tokenizer: The model's tokenizer.
        prompt: A text, which gets the special tokens that the tokenizer adds (bos, or T5's eos). Or a conversation for
            the chat template, which opens the answer and writes its own special tokens.

    Raises:
        ModelError: When the tokenizer has no chat template for the messages, or it drops a part of them.
    """
    text, is_chat = _prompt_text(tokenizer, prompt)
    return unmarked(text), marked_ids(tokenizer, text, add_special_tokens=not is_chat)


def completion_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of an answer to any prompt, which end with the first of `eos_ids`.

    With a chat template it is the answer of a conversation. Tokens that an encoder-decoder writes before every text are
    included: BART's <s>, mBART-50's language; T5 has none.

    Raises:
        ModelError: When the tokenizer has no end token.
    """
    if tokenizer.chat_template:
        try:
            return reference_ids(tokenizer, [{"role": "user", "content": _QUESTION}], text)
        except ModelError:  # the template needs other turns
            return _lone_ids(tokenizer, text)
    return _lone_ids(tokenizer, text)


def reference_ids(tokenizer: Tokenizer, prompt: str | Sequence[Message] | Chat, answer: str | Message) -> list[int]:
    """Return the token ids of the answer to a prompt, as the template writes it, up to the end token.

    Args:
        tokenizer: The tokenizer.
        prompt: What `render` took.
        answer: A text, or the assistant's message, which may have tool calls and reasoning.

    Raises:
        ModelError: When the tokenizer has no end token, or the template drops the message's tool calls.
    """
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    if isinstance(prompt, str):
        return _plain_reference(tokenizer, prompt, content_text(message))
    chat = prompt if isinstance(prompt, Chat) else Chat(messages=prompt)
    before, _ = _prompt_text(tokenizer, chat)
    try:
        followed = _marked_chat(tokenizer, replace(chat, messages=[*chat.messages, message]))
        whole = chat_text(tokenizer, followed, opens_answer=False)
    except ModelError:
        if message.get("tool_calls"):
            raise
        return _lone_ids(tokenizer, content_text(message))
    content = mark_text(tokenizer, content_text(message), answer=True).strip()
    has_calls = bool(message.get("tool_calls"))
    # Templates write blanks of their own around thoughts.
    if whole.startswith(before) and (has_calls or "".join(content.split()) in "".join(whole[len(before) :].split())):
        return _cut(tokenizer, before, whole, content, has_calls=has_calls)
    if has_calls:
        expected, got = "a chat template that goes on from the answer's beginning", "another beginning"
        raise ModelError(tokenizer.name_or_path, expected=expected, got=got, remedy="set task.template.variables")
    return _lone_ids(tokenizer, _after_opening(before, content_text(message)))


def _after_opening(before: str, answer: str) -> str:
    """Return an answer without the <think> that it begins with, where the prompt ends with it."""
    opening = _OPENING.match(answer)
    repeated = opening is not None and before.rstrip().endswith(opening[0].rstrip())
    return answer[opening.end() :] if opening and repeated else answer


def _cut(tokenizer: Tokenizer, before: str, whole: str, content: str, *, has_calls: bool) -> list[int]:
    """Return the ids of a conversation after its prompt, up to the token that closes the answer."""
    tail, ends = _tail_ids(tokenizer, before, whole), eos_ids(tokenizer)
    for index, token in enumerate(tail):
        if token in ends and not decode(tokenizer, tail[index + 1 :]).strip():
            return tail[: index + 1]
    # The template closes the answer with no end token, but with other text or none.
    written = whole[len(before) :]
    end = len(written.rstrip()) if has_calls else written.rfind(content) + len(content)
    if not content and not has_calls:
        end = 0
    return [*_tail_ids(tokenizer, before, before + written[:end]), ends[0]]


def _tail_ids(tokenizer: Tokenizer, before: str, whole: str) -> list[int]:
    ids, start = (marked_ids(tokenizer, text, add_special_tokens=False) for text in (whole, before))
    if ids[: len(start)] == start:
        return ids[len(start) :]
    return continued_ids(tokenizer, whole[len(before) :])  # the border lies within a token


def _plain_reference(tokenizer: Tokenizer, prompt: str, answer: str) -> list[int]:
    """Return the ids of an answer to a text, with which it is tokenised together unless an encoder reads the prompt."""
    if _ends_texts(tokenizer):
        return _lone_ids(tokenizer, answer)
    before, after = mark_text(tokenizer, prompt), mark_text(tokenizer, answer, answer=True)
    ids, start = (marked_ids(tokenizer, text, add_special_tokens=True) for text in (before + after, before))
    tail = ids[len(start) :] if ids[: len(start)] == start else continued_ids(tokenizer, after)
    return [*tail, eos_ids(tokenizer)[0]]


def _lone_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of an answer without its prompt."""
    marked, end = mark_text(tokenizer, text, answer=True), eos_ids(tokenizer)[0]
    if tokenizer.chat_template:
        return [*continued_ids(tokenizer, marked), end]
    return [*_target_prefix(tokenizer), *marked_ids(tokenizer, marked, add_special_tokens=False), end]


def _target_prefix(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens before a target text; none for a decoder, whose tokenizer ends no text with eos."""
    if not _ends_texts(tokenizer):
        return []
    ids, special = [int(token) for token in tokenizer(text_target=_QUESTION)["input_ids"]], special_ids(tokenizer)
    return ids[: next((index for index, token in enumerate(ids) if token not in special), 0)]


def _ends_texts(tokenizer: Tokenizer) -> bool:
    """Return whether the tokenizer ends every text with eos, as those of encoder-decoders do."""
    ids = [] if tokenizer.chat_template else ids_of(tokenizer, _QUESTION)
    return tokenizer.eos_token_id in ids[-2:]  # mBART's language may follow eos


def assistant_mask(tokenizer: Tokenizer, chat: Chat, prompt_ids: Sequence[int]) -> list[bool]:
    """Return which tokens of a prompt are turns of the assistant that end as an answer does.

    A greeting in front of all other messages is none of them, because there is no prompt that it answers.

    Raises:
        DataError: When the chat template writes an earlier turn in another way than it writes an answer.
    """
    mask = [False] * len(prompt_ids)
    for index, message in enumerate(chat.messages):
        if message.get("role") != "assistant" or index == 0:
            continue
        try:
            earlier = replace(chat, messages=chat.messages[:index])
            start = render(tokenizer, earlier)[1]
            turn = reference_ids(tokenizer, earlier, message)
        except ModelError as error:
            raise _rewritten(error.got) from error
        end = len(start) + len(turn)
        if list(prompt_ids[:end]) != [*start, *turn]:
            raise _rewritten("a chat template that rewrites them")
        mask[len(start) : end] = [True] * len(turn)
    return mask


def _rewritten(got: str) -> DataError:
    expected, remedy = "earlier turns that stay as the assistant wrote them", "set task.settings.train_on: last"
    return DataError("task.settings.train_on", expected=expected, got=got, remedy=remedy)


def _prompt_text(tokenizer: Tokenizer, prompt: str | Sequence[Message] | Chat) -> tuple[str, bool]:
    """Return the marked text of a prompt, and whether a chat template wrote it."""
    if isinstance(prompt, str):
        return mark_text(tokenizer, prompt), False
    chat = prompt if isinstance(prompt, Chat) else Chat(messages=prompt)
    return chat_text(tokenizer, _marked_chat(tokenizer, chat), opens_answer=True), True


def _marked_chat(tokenizer: Tokenizer, chat: Chat) -> Chat:
    messages = [_marked_message(tokenizer, message) for message in chat.messages]
    return replace(chat, messages=messages, tools=mark_values(tokenizer, list(chat.tools), answer=False))


def _marked_message(tokenizer: Tokenizer, message: Message) -> Message:
    answer = message.get("role") == "assistant"
    values = {key: mark_values(tokenizer, value, answer=answer) for key, value in message.items()}
    return values | {"role": message.get("role")}
