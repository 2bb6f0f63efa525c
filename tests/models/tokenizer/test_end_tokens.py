"""What ends a completion, and where it is recorded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.models.tokenizer import (
    add_end_ids,
    completion_decoder,
    completion_ids,
    eos_ids,
    load_tokenizer,
    save_tokenizer,
)
from pipeline.runtime.errors import ModelError

LOOP = "{% for m in messages %}{{ m['content'] }}<end>\n{% endfor %}"

Maker = Callable[..., Any]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, [257]),
        (LOOP, [258, 257]),
        (LOOP.replace("<end>", " <end> \n<extra>"), [258, 257]),  # the first token that follows the answer
        (LOOP.replace("<end>\n", "\n"), [257]),  # nothing but blanks
        (LOOP.replace("<end>", " The end."), [257]),  # a text of several tokens
        ("<s>{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", [257]),  # no answer
        ("<s>{% for m in messages %}{{ m['content'] | upper }}<end>{% endfor %}", [258, 257]),
        ("{{ messages[0]['content'] }}{% for m in messages[1:] %}{{ m['content'] }}<s>{% endfor %}", [257]),  # bos
        ("{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}" + LOOP, [258, 257]),
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('a system') }}{% endif %}" + LOOP, [258, 257]),
        (
            "<s>{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<end>{% endfor %}",
            [258, 257],
        ),
        ("{% for m in messages %}{{ m['content'] }", [257]),  # a syntax error, which matters only to chats
    ],
)
def test_the_token_that_closes_an_answer_ends_a_completion(
    template: str | None, expected: list[int], make_tokenizer: Maker
) -> None:
    assert eos_ids(make_tokenizer(template=template)) == expected


def test_an_added_token_that_is_not_special_closes_a_turn_too(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=LOOP.replace("<end>", "<|im_end|>"))
    tokenizer.add_tokens(["<|im_end|>"])
    assert eos_ids(tokenizer) == [260, 257]
    assert completion_ids(tokenizer, "a<|im_end|>")[-1] == 260
    assert completion_ids(tokenizer, "a<|im_end|>").count(260) == 1


def test_the_text_of_a_completion_has_no_end_token_special_or_not(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=LOOP.replace("<end>", "<|im_end|>"))
    tokenizer.add_tokens(["<|im_end|>", "<|other|>"])
    text_of, ids = completion_decoder(tokenizer), tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert text_of([*ids, 260]) == text_of(ids) == text_of([*ids, 257]) == "ab"
    assert text_of([260]) == text_of([]) == ""
    assert text_of([*ids, 261]) == "ab<|other|>"


def test_a_token_of_the_vocabulary_that_is_the_whole_closing_ends_a_turn() -> None:
    core = Tokenizer(
        models.WordLevel({"[UNK]": 0, "</s>": 1, "stillroom": 2, "distil": 3, "##END": 4, ".": 5}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m['content'] }} ##END\n{% endfor %}"
    names = {"unk_token": "[UNK]", "eos_token": "</s>"}
    assert eos_ids(PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **names)) == [4, 1]
    stop = template.replace("##END", ".")
    assert eos_ids(PreTrainedTokenizerFast(tokenizer_object=core, chat_template=stop, **names)) == [1]
    template = template.replace("##END", "another")
    assert eos_ids(PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **names)) == [1]


def test_every_end_of_the_generation_configuration_counts(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=LOOP)
    add_end_ids(tokenizer, {"eos_token_id": [257, 259, 9_999]})
    assert eos_ids(tokenizer) == [258, 257, 259]


def test_an_end_that_transformers_copied_from_a_configuration_must_be_special(make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer()
    add_end_ids(tokenizer, {"eos_token_id": 2, "_from_model_config": True})  # a default of LlamaConfig, here "#"
    assert eos_ids(tokenizer) == [257]
    add_end_ids(tokenizer, {"eos_token_id": 259, "_from_model_config": True})
    assert eos_ids(tokenizer) == [257, 259]


def test_a_directory_records_the_ends_and_gives_them_back(tmp_path: Path, make_tokenizer: Maker) -> None:
    tokenizer = make_tokenizer(template=LOOP)
    add_end_ids(tokenizer, {"eos_token_id": 259})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 257, "temperature": 0.6}', encoding="utf-8")
    save_tokenizer(tokenizer, tmp_path)
    recorded = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert recorded == {"eos_token_id": [258, 257, 259], "temperature": 0.6}
    assert eos_ids(load_tokenizer(tmp_path)) == [258, 257, 259]
    assert eos_ids(load_tokenizer(str(tmp_path))) == [258, 257, 259]
    save_tokenizer(make_tokenizer(), tmp_path / "lone")
    assert json.loads((tmp_path / "lone" / "generation_config.json").read_text(encoding="utf-8")) == {
        "eos_token_id": 257
    }


def test_a_tokenizer_without_any_end_is_refused(make_tokenizer: Maker) -> None:
    with pytest.raises(ModelError, match="expected an end-of-sequence token, got none; set eos_token"):
        eos_ids(make_tokenizer(eos_token=None, pad_token=None))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ('{"eos_token_id": [257, 259', "Expecting ',' delimiter"),
        ("[257]", "'list' object"),
        ('{"eos_token_id": "</s>"}', "eos_token_id '</s>'"),
        ('{"eos_token_id": [257, "</s>"]}', "eos_token_id [257, '</s>']"),
        ('{"eos_token_id": true}', "eos_token_id True"),
        (b"\xff\xfe{}", "'utf-8' codec"),
    ],
)
def test_a_damaged_generation_configuration_is_named(
    content: str | bytes, got: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """Its ends would be missing without a word."""
    path = make_model_dir(tmp_path / "model")
    file = path / "generation_config.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for load in (load_tokenizer, lambda path: load_pretrained(str(path), None, dtype=torch.float32, where="t.model")):
        with pytest.raises(ModelError) as caught:
            load(path)
        message = str(caught.value)
        assert message.startswith(
            f"{file}: expected JSON whose eos_token_id is a token id or a list of them, got {got}"
        )
        assert message.endswith("; get the file again, or remove it")
    for fields in ({}, {"eos_token_id": None}):
        file.write_text(json.dumps(fields), encoding="utf-8")
        assert eos_ids(load_tokenizer(path)) == [258, 257]
    file.unlink()
    assert eos_ids(load_tokenizer(path)) == [258, 257]
