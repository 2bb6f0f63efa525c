"""Prompts and answers to token ids, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipeline.models.tokenizer import (
    Chat,
    assistant_mask,
    completion_ids,
    decode,
    load_tokenizer,
    reference_ids,
    render,
    shared_vocab,
    template_fingerprint,
    token_texts,
    tokenizer_fingerprint,
)
from pipeline.runtime.errors import DataError, ModelError

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


Maker = Callable[..., Any]


def test_a_saved_tokenizer_loads_and_keeps_its_fingerprint(tmp_path: Path, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)
    assert render(loaded, "Hi") == render(tokenizer, "Hi")


def test_a_missing_directory_and_a_damaged_one_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a model directory, got nothing") as caught:
        load_tokenizer(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    with pytest.raises(ModelError, match="expected a tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_plain_prompt_gets_the_special_tokens_of_the_tokenizer(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer()
    text, ids = render(tokenizer, "Hi there")
    assert text == "Hi there"
    assert ids[0] == 256
    assert decode(tokenizer, ids) == text
    assert len(ids) == 1 + len(text)


def test_a_chat_prompt_opens_the_answer_and_has_one_bos(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    text, ids = render(tokenizer, [{"role": "user", "content": "Hi"}])
    assert text == "<s>[user]Hi<end>[assistant]"
    assert [token for token in ids if token >= 256] == [256, 258]
    assert decode(tokenizer, ids) == "[user]Hi[assistant]"
    assert render(tokenizer, "Hi")[0] == "Hi"  # a text stays one, whatever the tokenizer has


def test_a_chat_that_the_tokenizer_cannot_write_is_told(make_tokenizer: Maker) -> None:
    chat = [{"role": "system", "content": "Be brief."}]
    with pytest.raises(
        ModelError, match=r"^tokenizer: expected a chat template, got none; set task\.template\.chat: fal"
    ):
        render(make_tokenizer(), chat)
    with pytest.raises(ModelError, match=r"expected a chat template for turns of system, got No system turn; fix task"):
        render(make_tokenizer(template="{{ raise_exception('No system turn') }}"), chat)


@pytest.mark.parametrize("text", ["", "Zwölf Boxkämpfer, 2 < 3 \n ok", "it spells </s> and <s>"])
def test_a_completion_ends_with_eos_once_and_reads_back(text: str, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer()
    ids = completion_ids(tokenizer, text)
    assert ids[-1] == 257
    assert all(token < 256 for token in ids[:-1])
    assert decode(tokenizer, ids) == text


@pytest.mark.parametrize("text", ["", "the song, 2 < 3", "it spells </s> and <extra_id_0>"])
def test_t5_ends_source_and_completion_with_one_eos(text: str, t5_tokenizer: Any) -> None:
    _, source = render(t5_tokenizer, text)
    ids = completion_ids(t5_tokenizer, text)
    assert source[-1] == ids[-1] == 1
    assert 1 not in ids[:-1]
    assert 0 not in ids
    assert decode(t5_tokenizer, ids) == text


@pytest.mark.parametrize("template, opening", [("<s> $A </s>", [256]), ("$A </s> <extra>", []), ("<s> $A", [])])
def test_an_encoder_decoders_completion_opens_as_its_tokenizer_does(
    template: str, opening: list[int], make_tokenizer: Maker
) -> None:
    """BART's and mBART's way; a bos without an eos is a decoder's, whose completion follows a prompt."""
    tokenizer = make_tokenizer()
    special = [(name, int(tokenizer.convert_tokens_to_ids(name))) for name in ("<s>", "</s>", "<extra>")]
    used = [pair for pair in special if pair[0] in template]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    assert completion_ids(tokenizer, "Hi") == [*opening, *tokenizer("Hi", add_special_tokens=False)["input_ids"], 257]


def test_padding_and_template_are_no_part_of_the_fingerprint(make_tokenizer: Maker) -> None:
    plain = tokenizer_fingerprint(make_tokenizer())
    assert tokenizer_fingerprint(make_tokenizer(template=TEMPLATE, pad_token="<extra>", padding_side="left")) == plain
    assert tokenizer_fingerprint(make_tokenizer(eos_token="<end>")) != plain
    assert tokenizer_fingerprint(make_tokenizer(bos_token="<end>")) != plain
    assert tokenizer_fingerprint(make_tokenizer(extra="<other>")) != plain


def test_a_template_has_a_fingerprint_of_its_own(make_tokenizer: Maker) -> None:
    actual = {template_fingerprint(make_tokenizer(template=template)) for template in (TEMPLATE, TEMPLATE + " ")}
    assert len(actual - {""}) == 2
    assert template_fingerprint(make_tokenizer()) == ""


def test_a_token_is_shown_with_its_space_and_a_special_one_by_name(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer("a b", add_special_tokens=False)["input_ids"]
    assert token_texts(tokenizer, [*ids, 258]) == ["a", " ", "b", "<end>"]


def test_a_sentencepiece_token_keeps_the_space_before_it() -> None:
    vocab = {"<unk>": 0, "\u2581the": 1, "s": 2}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.decoder = decoders.Metaspace()
    assert token_texts(PreTrainedTokenizerFast(tokenizer_object=core), [1, 2]) == [" the", "s"]


def test_the_shared_vocabulary_reaches_to_the_highest_id(make_tokenizer: Maker) -> None:
    assert shared_vocab(make_tokenizer()) == 260


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """A tokenizer like Llama's, which puts a space before the first word of a text."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "\n", *letters, "\u2581Hello", "Hello"]
    core = Tokenizer(models.Unigram([(piece, -float(len(piece) < 2)) for piece in pieces], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    core.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>", "<|assistant|>")])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


AFTER_A_LINE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
AFTER_A_BRACKET = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "answer"),
    [(AFTER_A_LINE, ["Hello", "</s>"]), (AFTER_A_BRACKET, ["\u2581Hello", "\u2581", "</s>"])],
)
def test_an_answer_has_the_tokens_of_the_whole_conversation(
    template: str, answer: list[str], sentencepiece: Any
) -> None:
    sentencepiece.chat_template = template
    chat = [{"role": "user", "content": "Hi"}]
    ids = reference_ids(sentencepiece, chat, "Hello")
    assert sentencepiece.convert_ids_to_tokens(ids) == answer
    assert completion_ids(sentencepiece, "Hello") == ids
    text = sentencepiece.apply_chat_template([*chat, {"role": "assistant", "content": "Hello"}], tokenize=False)
    whole = sentencepiece(text, add_special_tokens=False)["input_ids"]
    assert whole[: len(whole) - (template == AFTER_A_LINE)] == render(sentencepiece, chat)[1] + ids
    sentencepiece.chat_template = None


def test_an_answer_to_a_text_is_tokenised_behind_it(sentencepiece: Any) -> None:
    names = sentencepiece.convert_ids_to_tokens
    assert names(reference_ids(sentencepiece, "Hi\n", "Hello")) == ["Hello", "</s>"]
    assert names(reference_ids(sentencepiece, "Hi", " Hello")) == ["\u2581Hello", "</s>"]
    assert names(completion_ids(sentencepiece, "Hello")) == ["\u2581Hello", "</s>"]  # to no prompt


@pytest.mark.parametrize(
    ("closing", "end"),
    [
        ("<end>\n", [258]),
        ("<end></s>", [258]),  # the second stands behind the conversation
        ("", [257]),
        ("\n\n", [257]),
        (" The end.", [257]),
    ],
)
def test_an_answer_ends_where_the_template_closes_it(closing: str, end: list[int], make_tokenizer: Maker) -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}" + closing + "{% endfor %}"
    tokenizer = make_tokenizer(template=template + "{% if add_generation_prompt %}assistant: {% endif %}")
    chat = [{"role": "user", "content": "a"}]
    assert reference_ids(tokenizer, chat, " b c ") == [*tokenizer("b c", add_special_tokens=False)["input_ids"], *end]
    assert reference_ids(tokenizer, chat, "") == end


def test_reasoning_and_calls_of_tools_are_written_as_the_template_writes_them(make_tokenizer: Maker) -> None:
    template = (
        "{% for m in messages %}<s>{{ m['role'] }}:{% if m['reasoning_content'] %}<think>{{ m['reasoning_content'] }}"
        "</think>{% endif %}{{ m['content'] }}{% for c in m['tool_calls'] or [] %}{{ c['function'] | tojson }}"
        "{% endfor %}<end>{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
    )
    tokenizer, chat = make_tokenizer(template=template), [{"role": "user", "content": "1+1?"}]
    thought = {"role": "assistant", "reasoning_content": "One and one.", "content": "2"}
    ids = reference_ids(tokenizer, chat, thought)
    assert tokenizer.decode(ids) == "<think>One and one.</think>2<end>"
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    ids = reference_ids(tokenizer, chat, call)
    assert tokenizer.decode(ids) == '{"name": "add", "arguments": {"a": 1}}<end>'
    with pytest.raises(ModelError, match="expected a chat template that writes the call of the tool add"):
        reference_ids(make_tokenizer(template="{% for m in messages %}{{ m['content'] }}{% endfor %}"), chat, call)
    other = template.replace("add_generation_prompt %}<s>", "add_generation_prompt %}</s>")
    with pytest.raises(ModelError, match="expected a chat template that goes on from the answer's beginning"):
        reference_ids(make_tokenizer(template=other), chat, call)


@pytest.mark.parametrize(
    "answer", ["{{ '' }}", "{{ m['content'] | upper }}", "{{ raise_exception('no answers') }}", "<s>{{ m['content'] }}"]
)
def test_an_answer_that_the_template_changes_is_tokenised_alone(answer: str, make_tokenizer: Maker) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% else %}" + answer + "<end>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
    )
    tokenizer = make_tokenizer(template=template, eos_token="<end>")
    ids = reference_ids(tokenizer, [{"role": "user", "content": "a"}], "b")
    assert ids == [*tokenizer("b", add_special_tokens=False)["input_ids"], 258]


def test_thoughts_in_an_answer_are_written_once(make_tokenizer: Maker) -> None:
    rewrites = (
        "{% for m in messages %}[{{ m['role'] }}]{% if '</think>' in m['content'] %}"
        "{% set parts = m['content'].split('</think>') %}{{ parts[0] + '\\n</think>\\n' + parts[1] }}"
        "{% else %}{{ m['content'] }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    chat, answer = [{"role": "user", "content": "a"}], "<think>r</think>b"
    tokenizer = make_tokenizer(template=rewrites)
    assert tokenizer.decode(reference_ids(tokenizer, chat, answer)) == "<think>r\n</think>\nb<end>"
    drops = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'].split('</think>')[-1] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
    )
    tokenizer = make_tokenizer(template=drops)
    assert tokenizer.decode(reference_ids(tokenizer, chat, answer)) == "r</think>b<end>"


TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


def test_every_turn_of_the_assistant_is_in_the_mask(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=TEMPLATE)
    chat = Chat(messages=[*TALK, {"role": "assistant", "content": "<end>"}, {"role": "user", "content": "e"}])
    ids = render(tokenizer, chat)[1]
    mask = assistant_mask(tokenizer, chat, ids)
    learnt = [token for token, is_learnt in zip(ids, mask, strict=True) if is_learnt]
    assert [token for token in learnt if token > 255] == [258, 258]
    assert decode(tokenizer, learnt) == "b<end>"
    assert not any(assistant_mask(tokenizer, Chat(messages=TALK[:1]), ids))
    greeted = Chat(messages=[{"role": "assistant", "content": "hello"}, *TALK])
    ids = render(tokenizer, greeted)[1]
    mask = assistant_mask(tokenizer, greeted, ids)
    assert decode(tokenizer, [token for token, is_learnt in zip(ids, mask, strict=True) if is_learnt]) == "b"


@pytest.mark.parametrize("change", ["{{ 'x' if loop.last }}", "{{ '' if loop.last else 'x' }}"])
def test_a_template_that_rewrites_earlier_turns_is_refused(change: str, make_tokenizer: Maker) -> None:
    template = "{% for m in messages %}{{ m['content'] }}" + change + "<end>{% endfor %}"
    tokenizer, chat = make_tokenizer(template=template), Chat(messages=TALK)
    with pytest.raises(DataError) as caught:
        assistant_mask(tokenizer, chat, render(tokenizer, chat)[1])
    assert str(caught.value) == (
        "task.settings.train_on: expected earlier turns that stay as the assistant wrote them, got a chat template "
        "that rewrites them; set task.settings.train_on: last"
    )
