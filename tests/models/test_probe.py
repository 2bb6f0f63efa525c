"""What a model's states are reused for: every class gives the logits and gradients of one plain pass, or is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bench.models.classes import agreements, way
from bench.models.tiny import MODELS, tiny_model
from pipeline.core.types import TokenSequence
from pipeline.models import language_model as lm
from pipeline.models import reuse
from pipeline.models.context import context_of
from pipeline.runtime.errors import ModelError
from pipeline.scoring.hf_scorer import HFScorer
from pipeline.scoring.scorer import TruncationParams

# One class of each kind; the others are slow tests.
WAYS = {
    "Llama,dynamic-NTK": "fast,≤16",
    "Phi-3,longrope": "fast,≤16",
    "Falcon,ALiBi": "fast",
    "BLOOM": "fast",
    "gpt-oss": "fast",
    "Gemma-3n-text": "fast",
    "Gemma-3": "fast",
    "DeepSeek-V3": "fast",
    "Qwen3-Next": "slow(training)",
    "Falcon-H1": "slow(training)",
    "Nemotron-H": "slow(sampling,training)",
    "Mamba": "slow",
    "NLLB-MoE": "slow",
    "BigBird-Pegasus": "fast,≤21",
}
REFUSED = dict.fromkeys(("BERT", "FSMT", "ProphetNet"), "linear map of the hidden state")


_OTHERS = {*MODELS} - {*WAYS}  # whose tests are slow in sum


@pytest.fixture(autouse=True)
def _lines_anew() -> None:
    """Each test is a process of its own for the lines that are printed once."""
    reuse.say_once.cache_clear()


@pytest.mark.parametrize("name", [*WAYS, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(_OTHERS))])
def test_every_way_to_the_logits_gives_those_of_a_plain_pass(name: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            lm.load_model(tmp_path)
        return
    off = {use: parts for use, parts in agreements(tmp_path).items() if not all(part.is_close for part in parts)}
    assert not off
    if name in WAYS:
        assert way(tmp_path) == WAYS[name]


def test_an_ordinary_model_shares_everything_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model("Llama").save_pretrained(tmp_path)
    assert reuse.reuse_of(lm.load_model(tmp_path, to_train=True)) == reuse.EVERYTHING
    half = reuse.reuse_of(lm.load_model(tmp_path, dtype=torch.bfloat16))
    assert half.shares and half.decodes
    assert "read alone" not in capsys.readouterr().err


def test_what_is_read_alone_is_said_once_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model("Mamba").save_pretrained(tmp_path)
    for _ in range(2):
        lm.load_model(tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "read alone" in line]
    assert lines == [
        "mamba: each sequence is read alone in scoring and evaluation and sampling, which is right but slow: "
        "the state of a prompt cannot be reused"
    ]


@pytest.mark.parametrize("name", ["Mamba", "Phi-3,longrope", "Qwen3-Next"])
def test_a_score_does_not_depend_on_its_batch(name: str, tmp_path: Path) -> None:
    """Two completions of one prompt and a longer prompt, on both sides of the rotary limit of 16 tokens."""
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    texts = [([9, 6, 5], [12, 3, 8]), ([9, 6, 5], [9, 9, 3, 2]), (list(range(3, 20)), [7, 4, 5])]
    columns = {"support_ids": [[]], "tail_sample_ids": [[]], "tail_offset": [0.0]}
    sequences = [
        TokenSequence(
            prompt_ids=prompt,
            completion_ids=completion,
            **{column: value * len(completion) for column, value in columns.items()},
        )
        for prompt, completion in texts
    ]
    truncation = TruncationParams(
        threshold=0.01, max_entries=8, samples_per_tail=0.0, min_tail=0.1, temperatures=(1.0,)
    )
    for size in (1, 3):
        scorer = HFScorer(tmp_path, precision="float32", vocab=60, truncation=truncation, batch_size=size)
        for (prompt, completion), scores in zip(texts, scorer.score(sequences, lambda _: None), strict=True):
            with torch.no_grad():
                logits_SV = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1, :60]
            expected_T = logits_SV.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
            assert scores.stats.token_logp_N == pytest.approx(expected_T.numpy(), abs=1e-3)


def test_few_tokens_and_few_positions_are_enough(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=3,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert reuse.reuse_of(lm.load_model(tmp_path, to_train=True)) == reuse.EVERYTHING


def test_a_model_with_damaged_weights_is_refused(tmp_path: Path) -> None:
    model = tiny_model("Llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError,
        match=r"got NaN or infinity at tokens that were tried, and in 1 weights: model\.norm",
    ):
        lm.load_model(tmp_path)


def test_a_model_that_reads_later_tokens_is_refused(tmp_path: Path) -> None:
    config = transformers.BertGenerationConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="expected a model that writes from left to right"):
        lm.load_model(tmp_path)


def test_the_context_of_a_nested_configuration_is_that_of_its_text(tmp_path: Path) -> None:
    model: Any = tiny_model("Gemma-3")
    model.save_pretrained(tmp_path)
    assert context_of(tmp_path).limit == 64
