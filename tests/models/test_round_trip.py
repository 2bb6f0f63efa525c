"""pipeline.models.round_trip: a directory that is not the model in memory is noticed, whatever is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MarianConfig, MarianMTModel, XmodConfig, XmodForCausalLM

from pipeline.models.language_model import load_model
from pipeline.models.round_trip import check_written, in_dtype, probe_logits, wrong_keys
from pipeline.runtime.errors import ModelError

WEIGHTS = "model.safetensors"


def test_a_directory_that_was_written_right_passes(teacher_dir: Path) -> None:
    check_written(teacher_dir, probe_logits(load_model(teacher_dir)), where="work/teacher")


def test_weights_rounded_to_the_number_format_on_disk_pass(teacher_dir: Path, tmp_path: Path) -> None:
    model = in_dtype(load_model(teacher_dir), torch.bfloat16)
    model.save_pretrained(tmp_path)
    check_written(tmp_path, probe_logits(model), where="work/teacher")


def test_frequencies_of_positions_are_not_rounded_with_the_weights(teacher_dir: Path) -> None:
    model = in_dtype(load_model(teacher_dir), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


def test_an_encoder_decoder_passes(make_t5_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_t5_dir(tmp_path / "t5")
    check_written(path, probe_logits(load_model(path)), where="work/teacher")


def _scaled(weights: dict[str, Any], _: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.01


def _left_out(weights: dict[str, Any], _: dict[str, Any]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def _too_many(weights: dict[str, Any], _: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight_scale_inv"] = torch.ones(1)


def _another_shape(weights: dict[str, Any], _: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 32)


def _other_positions(_: dict[str, Any], config: dict[str, Any]) -> None:
    config["rope_parameters"]["rope_theta"] = 100.0


@pytest.mark.parametrize(
    "damage, finding",
    [
        (_scaled, "logits that differ by 0."),
        (_left_out, "no value for 1 weights, such as model.layers.1.mlp.up_proj.weight"),
        (
            _too_many,
            "values that the model has no place for, of 1 weights, such as model.layers.1.mlp.up_proj.weight_sc",
        ),
        (_another_shape, "a directory that cannot be read again: "),
        (_other_positions, "logits that differ by "),
    ],
)
def test_another_model_on_disk_is_an_error_of_one_line(
    damage: Callable[..., None], finding: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_model_dir(tmp_path / "model")
    expected = probe_logits(load_model(path))
    weights, config = load_file(path / WEIGHTS), json.loads((path / "config.json").read_text(encoding="utf-8"))
    damage(weights, config)
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        check_written(path, expected, where="work/teacher")
    message = str(caught.value)
    assert message.startswith("work/teacher: expected to read the model again that was written, got " + finding)
    assert "\n" not in message


def test_weights_that_a_model_has_no_place_for_are_refused_where_it_is_loaded(
    make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_model_dir(tmp_path / "model")
    weights = load_file(path / WEIGHTS)
    save_file(weights | {"model.extra.weight": torch.ones(1)}, path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no place for, of 1 weights, such as model\.extra\.weight; run `make repro`"):
        load_model(path)


def test_buffers_that_old_checkpoints_hold_are_no_error(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "model")
    weights = load_file(path / WEIGHTS) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    load_model(path)


def test_every_kind_of_wrong_key_is_named() -> None:
    assert wrong_keys({"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}) is None
    finding = wrong_keys({"missing_keys": {"b", "a"}, "mismatched_keys": {("c", (1,), (2,))}})
    assert finding == "no value for 2 weights, such as a and another shape of 1 weights, such as c"


def test_a_model_of_nan_is_named_as_such(teacher_dir: Path) -> None:
    model = load_model(teacher_dir)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="work/teacher: expected finite logits, got NaN or infinite ones"):
        check_written(teacher_dir, probe_logits(model), where="work/teacher")


def test_a_model_that_needs_more_than_text_is_an_error_of_one_line() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = XmodForCausalLM(XmodConfig(**sizes, num_attention_heads=2, is_decoder=True, languages=["en_XX", "de_DE"]))
    with pytest.raises(ModelError, match="XmodForCausalLM: expected logits of a few tokens, got Input language"):
        probe_logits(model)


def test_positions_that_are_in_no_file_are_not_rounded_with_the_weights(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    torch.manual_seed(0)
    config = MarianConfig(**sizes, init_std=0.5, pad_token_id=0, decoder_start_token_id=0, max_position_embeddings=32)
    model = in_dtype(MarianMTModel(config), torch.bfloat16)
    model.save_pretrained(tmp_path)
    check_written(tmp_path, probe_logits(model), where="work/teacher")
