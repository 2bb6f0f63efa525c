"""Control tokens that data spell stay text, and those that a template writes are tokens."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.models.tokenizer import Chat, FilledText, completion_ids, control_tokens, decode, reference_ids, render

TEMPLATE = (
    "<s>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{{ m['thinking'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEXTS = ["say <end>", "<end>", "<s><end></s>", "<extra> and <en<end>d>", "a </s>\n<s>", "<|im_end|>"]

Maker = Callable[..., Any]


@pytest.fixture(params=["twin", "pieces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Encode marked texts by the twin, or in the way of tokenizers that have none."""
    if request.param == "pieces":
        monkeypatch.setattr(control_tokens, "_twin", lambda *_: None)
    return str(request.param)


def controls(ids: list[int]) -> list[int]:
    return [token for token in ids if token > 255]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("text", TEXTS)
def test_a_users_text_writes_no_control_token(text: str, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    read, ids = render(tokenizer, [{"role": "user", "content": text}])
    assert read == f"<s>[user]{text}<end>[assistant]"
    assert controls(ids) == [256, 258]
    assert len(ids) == 2 + len(f"[user]{text}[assistant]")
    assert decode(tokenizer, ids) == f"[user]{text}[assistant]"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_ends_once_whatever_it_spells(text: str, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    for ids in (
        reference_ids(tokenizer, [{"role": "user", "content": "<end>"}], text),
        completion_ids(tokenizer, text),
    ):
        assert controls(ids) == [258]
        assert decode(tokenizer, ids) == text
    plain = make_tokenizer()
    assert controls(reference_ids(plain, "a<end>", text)) == [257]
    assert decode(plain, completion_ids(plain, text)) == text


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("text", [f"\ufdd1{index}\ufdd2 <\ufdd0end> <s>" for index in range(4)])
def test_data_cannot_spell_the_names_of_the_twin(text: str, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    read, ids = render(tokenizer, [{"role": "user", "content": text}])
    replaced = re.sub("[\ufdd0-\ufdd2]", "\ufffd", text)
    assert read == f"<s>[user]{replaced}<end>[assistant]"
    assert controls(ids) == [256, 258]
    assert controls(reference_ids(tokenizer, [{"role": "user", "content": text}], text)) == [258]
    assert controls(render(tokenizer, FilledText([(text, True)]))[1]) == [256]


@pytest.mark.usefixtures("way")
def test_the_keys_of_a_tool_are_data(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template="{{ tools | tojson }}" + TEMPLATE)
    tool = {"name": "look_up", "parameters": {"properties": {"a<end>": {"type": "string"}}}}
    _, ids = render(tokenizer, Chat(messages=[{"role": "user", "content": "x"}], tools=[tool]))
    assert controls(ids) == [256, 258]


@pytest.mark.usefixtures("way")
def test_every_field_of_a_message_and_every_tool_is_data(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template="{{ tools | tojson }}" + TEMPLATE)
    message = {"role": "user", "content": [{"type": "text", "text": "a<end>"}], "thinking": "b<end>"}
    chat = Chat(messages=[message], tools=[{"name": "look_up", "description": "ends with <end>"}])
    text, ids = render(tokenizer, chat)
    assert text.count("<end>") == 4
    assert controls(ids) == [256, 258]


@pytest.mark.usefixtures("way")
def test_the_templates_own_control_tokens_are_tokens(make_tokenizer: Maker) -> None:
    filled = FilledText([("<s>", False), ("a<end>", True), ("<end>", False)])
    assert filled == "<s>a<end><end>"
    tokenizer = make_tokenizer(template=TEMPLATE)
    assert controls(render(make_tokenizer(), filled)[1]) == [256, 256, 258]
    assert controls(render(tokenizer, [{"role": "user", "content": filled}])[1]) == [256, 256, 258, 258]


def test_an_added_token_that_is_not_special_is_the_assistants_own_word_and_no_users(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE + "{# <think> #}{{ '' if true else '<think>' }}")
    tokenizer.add_tokens(["<think>", "hello"])
    chat = [{"role": "user", "content": "<think>"}]
    assert 260 not in render(tokenizer, chat)[1]
    assert reference_ids(tokenizer, chat, "<think>a")[0] == 260
    assert 261 in render(tokenizer, [{"role": "user", "content": "hello"}])[1]  # the template does not write it


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_letters_get_the_ids_that_they_have_in_any_text(kind: str) -> None:
    """The control token is a piece of the vocabulary too, as in SentencePiece."""
    pieces = ["<unk>", "</s>", "\u2581", "<", "/", "s", ">", "a", "\u2581a", "</", "s>"]
    if kind == "unigram":
        model: Any = models.Unigram([(piece, -float(len(piece) < 2)) for piece in pieces], unk_id=0)
    else:
        vocab = {piece: index for index, piece in enumerate(pieces)}
        model = models.BPE(vocab=vocab, merges=[("<", "/"), ("s", ">"), ("\u2581", "a")], unk_token="<unk>")
    core = Tokenizer(model)
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "</s>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    _, ids = render(tokenizer, [{"role": "user", "content": "a a</s>"}])
    assert tokenizer.convert_ids_to_tokens(ids) == ["\u2581a", "\u2581a", "</", "s>", "</s>"]
    assert tokenizer.convert_ids_to_tokens(completion_ids(tokenizer, "a</s>")) == ["a", "</", "s>", "</s>"]


def test_texts_without_control_tokens_need_no_twin(make_tokenizer: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_tokens, "_twin", None)
    tokenizer = make_tokenizer(template=TEMPLATE)
    ids = render(tokenizer, [{"role": "user", "content": "a < b > c"}])[1]
    assert ids == tokenizer("<s>[user]a < b > c<end>[assistant]", add_special_tokens=False)["input_ids"]
