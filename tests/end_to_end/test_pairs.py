"""Pairs of local directories that this project never saw, through the stages: each student comes nearer to its teacher.

Teacher and student are random models of one family and of different depth; that their passes, heads, padding and
samplers are right token by token, test_lm.py and test_engines.py show.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bench.end_to_end.job import initialise_student, make_corpus, merged, run_round, run_stage
from pipeline.models.architectures import auto_class, tied_head, untie_head
from pipeline.models.language_model import load_model
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ROUNDS, follow_params
from pipeline.workspace.students import write_students
from tests.project import PARAMS, write_sums

QWEN = 151_936  # rows of the head of Qwen2.5's smaller models
SMALL: dict[str, Any] = {
    "schedule": {"total_steps": 16, "refresh_every": 8},
    "task": {"template": {"text": "{question}", "chat": False}},
    "student": {"small": {"model": "models/student", "layers": None}},
    "corpus": {"references": 8, "generations": 4},
    "rollout": {"prompts": 12},
    "scoring": {"batch_size": 8, "flush_every": 64, "truncation": {"max_entries": 64}},
    "objective": {"tail_estimator": "auto"},
    "batches": {"batch_size": 8, "micro_batch_size": 8, "shuffle_window": 64},
    "optimizer": {"learning_rate": 1e-2, "save_steps": 16},
    "evaluation": {"prompts": 4, "batch_size": 4},
}
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "decoder_start_token_id": 0, "initializer_factor": 2.0}
_BART = {
    "d_model": 32,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 256,
    "init_std": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A family, and how its teacher and student (in this order) differ beside their depth and weights."""

    config: Callable[[int, int, bool], Any]  # of layers, rows of the head, and whether it is the embedding
    rows: tuple[int, int] = (300, 300)
    tied: tuple[bool, bool] = (True, True)


def _decoder(kind: Any, **changes: Any) -> Callable[[int, int, bool], Any]:
    return lambda layers, rows, tied: kind(
        vocab_size=rows, num_hidden_layers=layers, tie_word_embeddings=tied, **(_SIZES | changes)
    )


PAIRS = {
    "llama": Pair(config=_decoder(transformers.LlamaConfig), tied=(False, True)),
    "mistral": Pair(config=_decoder(transformers.MistralConfig, sliding_window=8), tied=(False, False)),
    "qwen2": Pair(config=_decoder(transformers.Qwen2Config), rows=(QWEN + 128, QWEN)),
    "qwen3": Pair(config=_decoder(transformers.Qwen3Config), rows=(300, 320), tied=(True, False)),
    "gemma2": Pair(config=_decoder(transformers.Gemma2Config, sliding_window=8, final_logit_softcapping=20.0)),
    "gemma3": Pair(config=_decoder(transformers.Gemma3TextConfig, sliding_window=8)),
    "t5": Pair(
        config=lambda layers, rows, tied: transformers.T5Config(
            vocab_size=rows, num_layers=layers, tie_word_embeddings=tied, **_T5
        ),
        tied=(False, True),
    ),
    "bart": Pair(
        config=lambda layers, rows, _: transformers.BartConfig(
            vocab_size=rows, encoder_layers=layers, decoder_layers=layers, **_BART
        )
    ),
}


@pytest.fixture(params=list(PAIRS))
def pair(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_tokenizer: Callable[..., Any],
    t5_tokenizer: Any,
) -> Pair:
    """Both directories, beside a few sums to learn, in the directory where we stand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", "store")
    pair = PAIRS[request.param]
    write_sums(tmp_path)
    for which, name in enumerate(("teacher", "student")):
        torch.manual_seed(which)
        config = pair.config(2 - which, pair.rows[which], pair.tied[which])
        model = auto_class(config).from_config(config)
        if config.model_type == "t5" and not pair.tied[which]:
            untie_head(model)
        model.save_pretrained(f"models/{name}")
        tokenizer = t5_tokenizer if config.is_encoder_decoder else make_tokenizer()
        tokenizer.save_pretrained(f"models/{name}")
    write_yaml(Path("params.yaml"), merged(PARAMS, SMALL), comment="Of a test.")
    follow_params()
    write_students(LAYOUT)
    return pair


def measured(checkpoint: str) -> dict[str, float]:
    run_stage("evaluate", name=f"small-{checkpoint}", model=f"work/small/{checkpoint}/model")
    return read_json(Path(f"work/evaluations/small-{checkpoint}.json"))["metrics"]  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("default")
def test_a_student_from_a_directory_comes_nearer_to_its_teacher(pair: Pair) -> None:
    run_stage("teacher", out="work/teacher")
    run_stage("prepare", teacher="work/teacher")
    run_stage("evaluate", name="teacher", model="work/teacher")
    make_corpus()
    initialise_student("small")
    before = measured("init")
    for round_ in round_list(read_yaml(ROUNDS)):
        run_round("small", round_)
    after = measured("r2")
    assert after["forward_kl"] < 0.6 * before["forward_kl"]
    for folder, rows, tied in zip(("work/teacher", "work/small/r2/model"), pair.rows, pair.tied, strict=True):
        model = load_model(Path(folder))
        assert (model.get_output_embeddings().weight.shape[0], tied_head(model)) == (rows, tied)
