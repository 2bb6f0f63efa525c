"""pipeline.models.tokenizer: prompts and completions with the small byte-level tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from pipeline.models.tokenizer import (
    completion_ids,
    decode,
    eos_ids,
    load_tokenizer,
    render,
    shared_vocab,
    template_fingerprint,
    token_texts,
    tokenizer_fingerprint,
)
from pipeline.runtime.errors import ModelError

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


def test_the_token_that_closes_a_turn_ends_a_completion_too(make_tokenizer: Maker) -> None:
    assert eos_ids(make_tokenizer()) == [257]
    assert eos_ids(make_tokenizer(template=TEMPLATE)) == [258, 257]
    assert eos_ids(make_tokenizer(template=TEMPLATE, eos_token="<end>")) == [258]
    assert eos_ids(make_tokenizer(template=TEMPLATE.replace("<end>", "\\n"))) == [257]
    assert completion_ids(make_tokenizer(template=TEMPLATE), "a")[-1] == 258


def test_a_tokenizer_without_any_end_is_refused(make_tokenizer: Maker) -> None:
    with pytest.raises(ModelError, match="expected an end-of-sequence token, got none; set eos_token"):
        eos_ids(make_tokenizer(eos_token=None, pad_token=None))


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
