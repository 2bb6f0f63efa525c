"""pipeline.checkpoints.random_init: a teacher from nothing, of both shapes, and the stage that saves it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.checkpoints.random_init import FreshParams, make_fresh
from pipeline.lineage.lineage import read_lineage
from pipeline.models.tokenizer import completion_ids, decode, load_tokenizer, render
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.yaml_files import write_yaml
from stages import teacher

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def fresh(config: dict[str, Any], seed: int = 0) -> Any:
    return make_fresh(FreshParams(config=config, tokenizer="bytes", seed=seed), where="teacher.model")


def test_bytes_say_everything_and_prompts_begin_with_bos() -> None:
    _, tokenizer = fresh(LLAMA)
    text = "Ünïcode </s> \u2028 and\n\ttabs, 12 + 5"
    ids = completion_ids(tokenizer, text)
    assert decode(tokenizer, ids) == text
    assert (ids[-1], max(ids[:-1]) < 256) == (tokenizer.eos_token_id, True)
    assert render(tokenizer, "ab")[1][0] == tokenizer.bos_token_id


def test_words_are_tokens_of_their_own_beside_the_bytes(tmp_path: Path) -> None:
    words = (" pens", "pens", " has ", "\n#### ")
    model, made = make_fresh(FreshParams(config=LLAMA, tokenizer=words, seed=0), where="teacher.model")
    assert model.config.vocab_size == 259 + len(words)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, load_tokenizer(tmp_path)):
        ids = completion_ids(tokenizer, "Ann has 12 pens\n#### 12 opens  pens")
        pieces = [decode(tokenizer, [token]) for token in ids[:-1]]
        assert "|".join(pieces) == "A|n|n| has |1|2| pens|\n#### |1|2| |o|pens| | pens"
        text = "Ünïcode has \u2028 pens </s>"
        assert decode(tokenizer, completion_ids(tokenizer, text)) == text


@pytest.mark.parametrize("config", [LLAMA, T5], ids=["llama", "t5"])
@torch.no_grad()
def test_the_weights_are_those_of_the_seed_and_the_vocabulary_is_the_tokenizers(config: dict[str, Any]) -> None:
    (first, tokenizer), (same, _), (other, _) = fresh(config), fresh(config), fresh(config, seed=1)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert first.config.vocab_size == first.get_input_embeddings().weight.shape[0] == 259
    special = (first.config.bos_token_id, first.config.eos_token_id, first.config.pad_token_id)
    assert special == (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    if first.config.is_encoder_decoder:
        assert first.config.decoder_start_token_id == tokenizer.pad_token_id


def test_what_follows_from_the_sizes_follows() -> None:
    model, _ = fresh(LLAMA)
    assert model.config.head_dim == 8  # 32 / 4, not what the default configuration has
    assert sum(weight.numel() for weight in model.parameters()) < 50_000


def test_another_models_tokenizer_may_be_taken(teacher_dir: Path) -> None:
    model, tokenizer = make_fresh(FreshParams(config=LLAMA, tokenizer=str(teacher_dir), seed=0), where="teacher.model")
    assert tokenizer.get_vocab() == load_tokenizer(teacher_dir).get_vocab()
    assert model.config.vocab_size == 260


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "lama"}, "config.model_type: expected a model type of transformers, such as llama, got 'lama'"),
        ({"model_type": None}, "config.model_type: expected a model type of transformers, such as llama, got nothing"),
        ({"layers": 2}, "config.layers: expected a field of LlamaConfig, got an unknown name; remove or rename it"),
        ({"hidden_size": 33}, "config: expected a LlamaConfig that fits together, got "),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError) as caught:
        fresh(LLAMA | changes)
    assert str(caught.value).startswith(f"teacher.model.{text}")


def test_a_word_that_would_not_read_back_is_refused() -> None:
    words = ("pens", " groß", "groß")
    with pytest.raises(ParameterError) as caught:
        make_fresh(FreshParams(config=LLAMA, tokenizer=words, seed=0), where="teacher.model")
    message = "expected words that read back: of ASCII letters, or with a space, got 'groß'; fix params.yaml"
    assert str(caught.value) == f"teacher.model.tokenizer: {message}"
    _, tokenizer = make_fresh(FreshParams(config=LLAMA, tokenizer=words[:2], seed=0), where="teacher.model")
    assert decode(tokenizer, completion_ids(tokenizer, "so groß")) == "so groß"


def test_the_teacher_stage_saves_it_as_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"config": LLAMA, "tokenizer": "bytes", "seed": 3}
    write_yaml(Path("params.yaml"), {"teacher": {"model": model, "revision": None, "dtype": "float32"}}, comment="x")
    teacher.main.main(["--out", "work/teacher"], standalone_mode=False)
    saved = AutoModelForCausalLM.from_pretrained("work/teacher")
    made, _ = fresh(LLAMA, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), made.parameters(), strict=True))
    lineage = read_lineage(Path("work/teacher"))
    assert lineage is not None
    assert (lineage.teacher.model, lineage.teacher.hub, lineage.teacher.license) == ("fresh:llama", False, None)
