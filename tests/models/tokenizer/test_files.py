"""The vocabulary of a directory whose head has no row for the highest ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.language_model import check_vocabulary, load_model
from pipeline.models.tokenizer import load_tokenizer, require_same_tokenizer, save_tokenizer, shared_vocab
from pipeline.runtime.errors import ModelError


def test_a_padding_token_without_a_row_is_no_part_of_the_vocabulary(
    tmp_path: Path, make_model_dir: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    teacher, student = make_model_dir(tmp_path / "teacher"), make_model_dir(tmp_path / "student", vocab=300)
    padded = make_tokenizer(pad_token="[PAD]")
    assert shared_vocab(padded) == 261
    padded.save_pretrained(teacher)
    loaded = load_tokenizer(teacher)
    assert shared_vocab(loaded) == 260
    check_vocabulary(load_model(teacher), shared_vocab(loaded), where=teacher)
    require_same_tokenizer(loaded, make_tokenizer(), ("big", "small"))
    save_tokenizer(loaded, student)  # the student's head has more rows
    assert shared_vocab(load_tokenizer(student)) == 260
    save_tokenizer(loaded, tmp_path / "adapter")  # which has no config.json
    assert shared_vocab(load_tokenizer(tmp_path / "adapter")) == 260


def test_a_directory_whose_head_has_all_rows_says_nothing_of_the_vocabulary(teacher_dir: Path, tmp_path: Path) -> None:
    save_tokenizer(load_tokenizer(teacher_dir), tmp_path)
    assert "stillroom_vocab" not in json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    with pytest.raises(ModelError, match="expected a head of at least 261 tokens, got 260; use a model with"):
        check_vocabulary(load_model(teacher_dir), 261, where=teacher_dir)
