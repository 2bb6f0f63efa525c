"""pipeline.workspace.probe: the lengths of completions, and what counts as ended."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.workspace import probe
from pipeline.workspace.probe import Probe, ask_teacher, distance, quantile, rounded


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


def test_the_distance_of_a_student_is_the_forward_kl_at_the_completions(
    make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    teacher, other = (
        AutoModelForCausalLM.from_pretrained(make_model_dir(tmp_path / f"{seed}", layers=1, seed=seed))
        for seed in (3, 4)
    )
    prompts, completions = [[256, 40, 41], [256, 50]], [[60, 61], [62] * 80]
    probe = Probe(
        texts=list(zip(prompts, completions, strict=True)),
        finished=[True] * 2,
        sampled_tokens_per_s=1,
        read_tokens_per_s=1,
    )
    assert distance(teacher, teacher, probe, 260) == 0
    rows = []
    with torch.inference_mode():
        for prompt, completion in probe.texts:
            ids, positions = torch.tensor([prompt + completion]), slice(len(prompt) - 1, len(prompt) + 31)
            logp_NV, logq_NV = (m(ids).logits[0, positions, :260].log_softmax(-1) for m in (teacher, other))
            rows.append((logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)[: len(completion)])
    assert distance(teacher, other, probe, 260) == pytest.approx(torch.cat(rows).mean().item(), rel=1e-4)


def test_only_completions_that_ended_count() -> None:
    texts = [([1], [2] * length) for length in (10, 1024, 30)]
    result = Probe(texts=texts, finished=[True, False, True], sampled_tokens_per_s=1.0, read_tokens_per_s=1.0)
    assert result.ended == [10, 30]


@pytest.mark.parametrize(("length", "limit", "expected"), [(1, 512, 16), (16, 512, 16), (17, 512, 32), (600, 500, 500)])
def test_lengths_are_multiples_of_16_within_the_limit(length: int, limit: int, expected: int) -> None:
    assert rounded(length, limit) == expected


def test_the_quantile_covers_95_percent() -> None:
    assert quantile([5]) == 5
    assert quantile(list(range(1, 101))) == 95
    assert quantile(list(range(1, 9))) == 8
