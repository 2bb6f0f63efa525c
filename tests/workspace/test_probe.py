"""pipeline.workspace.probe: the lengths of completions, and what counts as ended."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.workspace import probe
from pipeline.workspace.probe import Probe, ask_teacher, quantile, rounded


def test_completions_end_at_their_first_end_token(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "teacher", layers=1, seed=3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), load_tokenizer(path)
    prompts = [[256, *range(40, 40 + length)] for length in (3, 9, 5)]
    result = ask_teacher(model, tokenizer, prompts, limit=200)
    assert len(result.lengths) == 3
    assert all(1 <= length <= 200 for length in result.lengths)
    assert all(result.finished[i] or result.lengths[i] == 200 for i in range(3))
    assert min(result.sampled_tokens_per_s, result.read_tokens_per_s) > 0
    assert ask_teacher(model, tokenizer, prompts, limit=200).lengths == result.lengths
    ends = eos_ids(tokenizer)
    assert probe._until_end([5, ends[0], 7, ends[-1]], ends) == [5, ends[0]]
    assert probe._until_end([5, 6], ends) == [5, 6]


def test_an_encoder_decoder_completes_too(make_t5_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_t5_dir(tmp_path / "t5")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(path), load_tokenizer(path)
    result = ask_teacher(model, tokenizer, [[5, 6, 1], [7, 1]], limit=20)
    assert all(1 <= length <= 20 for length in result.lengths)


def test_only_completions_that_ended_count() -> None:
    result = Probe(
        lengths=[10, 1024, 30], finished=[True, False, True], sampled_tokens_per_s=1.0, read_tokens_per_s=1.0
    )
    assert result.ended == [10, 30]


@pytest.mark.parametrize(("length", "limit", "expected"), [(1, 512, 16), (16, 512, 16), (17, 512, 32), (600, 500, 500)])
def test_lengths_are_multiples_of_16_within_the_limit(length: int, limit: int, expected: int) -> None:
    assert rounded(length, limit) == expected


def test_the_quantile_covers_95_percent() -> None:
    assert quantile([5]) == 5
    assert quantile(list(range(1, 101))) == 95
    assert quantile(list(range(1, 9))) == 8
